//! What newer frontends know and that of Docker 20.10 does not: expectations written by hand.
