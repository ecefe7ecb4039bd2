//! What turns a Dockerfile into an image: Docker, and the dispatcher that drives a schedule.
