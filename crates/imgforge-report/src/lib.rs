//! Readers of the event stream: terminal, plain lines, JSON.
