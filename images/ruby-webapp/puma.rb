bind "tcp://127.0.0.1:9292"
threads 1, 5
environment "production"
# A stop waits for the requests that are being answered.
raise_exception_on_sigterm false
