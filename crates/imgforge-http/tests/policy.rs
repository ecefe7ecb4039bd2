//! The rules of requests, seen from a server on loopback.

#![expect(clippy::unwrap_used, reason = "these are tests, helpers and all")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imgforge_http::{Client, Method, NoAnswer, Options, Retry};

/// Answers each request with a head that never changes, and keeps those of the requests.
struct Server {
    host: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (kept, answer) = (Arc::clone(&heads), format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, answer) = (Arc::clone(&kept), answer.clone());
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    loop {
                        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                        if head.is_empty() {
                            return;
                        }
                        kept.lock().unwrap().push(head.join("\n"));
                        (&stream).write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        Self { host, heads }
    }

    fn asked(&self) -> usize {
        std::mem::take(&mut *self.heads.lock().unwrap()).len()
    }
}

fn quick() -> Retry {
    Retry { tries: 3, delay: Duration::from_millis(1), ..Retry::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_asked_for_as_it_is_written_by_somebody_who_says_who_it_is() {
    let server = Server::start("200 OK");
    let client = Client::new(Options::default()).unwrap();
    let url = format!("http://{}/pool/v_1%253a2%2B%7E1_all.deb", server.host);
    client.send(client.request(Method::GET, url), None).await.unwrap();
    let head = server.heads.lock().unwrap().concat().to_lowercase();
    assert!(head.starts_with("get /pool/v_1%253a2%2b%7e1_all.deb "), "{head}");
    assert!(head.contains("user-agent: imgforge/"), "{head}");
    assert!(head.contains("accept-encoding: identity"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_on_for_ever_gives_up_and_does_not_begin_again() {
    let server = Server::start("302 -\r\nLocation: /again");
    let client = Client::new(Options { retry: quick(), ..Options::default() }).unwrap();
    let url = format!("http://{}/", server.host);
    let failure = client.send(client.request(Method::GET, url), None).await.unwrap_err();
    assert!(matches!(&failure, NoAnswer::Refused(why) if why.contains("more than 10 times")), "{failure:?}");
    assert_eq!(server.asked(), 11);
}
