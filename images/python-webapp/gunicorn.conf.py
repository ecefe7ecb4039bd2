bind = "127.0.0.1:8000"
workers = 1
threads = 4
accesslog = None
# Heartbeat files belong in memory.
worker_tmp_dir = "/dev/shm"
