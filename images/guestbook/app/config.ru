require_relative "guestbook"

run Guestbook.new(ENV.fetch("GUESTBOOK_DATABASE"))
