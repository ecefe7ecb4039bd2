# What a child replaces with its application.
run ->(_env) { [200, { "content-type" => "text/plain" }, ["ruby-webapp: no application yet\n"]] }
