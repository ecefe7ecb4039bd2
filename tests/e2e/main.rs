//! End-to-end tests, one module per thing a user does.
