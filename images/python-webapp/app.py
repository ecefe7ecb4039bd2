"""What a child replaces with its application."""


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"python-webapp: no application yet\n"]
