//! The one HTTP client of the program: for registries, for repositories of packages, and for what ADD fetches.
//!
//! ```text
//! Options            -> Client     certificates, proxies, redirects
//! Client + request   -> Response   Client::send: watched for stalls, counted; statuses that may pass are told apart
//! Response           -> bytes      Client::body: one that comes too slowly is a cut; never more than was asked for
//! what went wrong    -> a wait     Tries::again: how often, how long, and what a server asks for
//! ```
//!
//! It is apart from its users so that each rule is one rule. Theirs are logins, the meaning of a status, and the words
//! for people.

mod client;
mod pace;
mod proxies;
mod resolver;
mod retry;
mod tls;

pub use client::{Body, Client, Clock, NoAnswer, Options, Traffic, is_loopback};
pub use reqwest::Body as RequestBody;
pub use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};
pub use retry::{Failure, Retry, Tries};
