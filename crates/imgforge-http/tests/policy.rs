//! The rules of requests, seen from a server on loopback.

use std::time::Duration;

use imgforge_http::{Client, Method, NoAnswer, Options, Retry};
use imgforge_testkit::http::Answering;

fn quick() -> Retry {
    Retry { tries: 3, delay: Duration::from_millis(1), ..Retry::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_asked_for_as_it_is_written_by_somebody_who_says_who_it_is() {
    let server = Answering::start("200 OK").unwrap();
    let client = Client::new(Options::default()).unwrap();
    let url = format!("http://{}/pool/v_1%253a2%2B%7E1_all.deb", server.host());
    client.send(client.request(Method::GET, url), None).await.unwrap();
    let head = server.take_heads().concat().to_lowercase();
    assert!(head.starts_with("get /pool/v_1%253a2%2b%7e1_all.deb "), "{head}");
    assert!(head.contains("user-agent: imgforge/"), "{head}");
    assert!(head.contains("accept-encoding: identity"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_on_for_ever_gives_up_and_does_not_begin_again() {
    let server = Answering::start("302 -\r\nLocation: /again").unwrap();
    let client = Client::new(Options { retry: quick(), ..Options::default() }).unwrap();
    let url = format!("http://{}/", server.host());
    let failure = client.send(client.request(Method::GET, url), None).await.unwrap_err();
    assert!(matches!(&failure, NoAnswer::Refused(why) if why.contains("more than 10 times")), "{failure:?}");
    assert_eq!(server.take_heads().len(), 11);
}
