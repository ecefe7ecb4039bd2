//! The proxies that the environment names: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, and where there is none,
//! `NO_PROXY`; also in small letters.

use reqwest::{NoProxy, Proxy};

/// A proxy would look for these on its own machine.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Returns the proxies that `variable` names, each with its login. One that cannot be understood is left out, as
/// reqwest's own reading of the environment leaves it out.
pub(crate) fn proxies(variable: impl Fn(&str) -> Option<String>) -> Vec<Proxy> {
    let read = |name: &str| variable(name).or_else(|| variable(&name.to_lowercase()));
    let direct = format!("{},{LOOPBACK}", read("NO_PROXY").unwrap_or_default());
    let named = |name: &str, proxy: fn(String) -> reqwest::Result<Proxy>| {
        let address = read(name).filter(|address| !address.is_empty())?;
        Some(proxy(address).ok()?.no_proxy(NoProxy::from_string(&direct)))
    };
    let all = [
        named("HTTP_PROXY", Proxy::http),
        named("HTTPS_PROXY", Proxy::https),
        named("ALL_PROXY", Proxy::all),
    ];
    all.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn all_goes_by_the_proxy_of_the_environment_but_loopback_and_what_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (sender, heads) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let answer = "HTTP/1.1 204 -\r\nConnection: close\r\n\r\n";
                (&stream).write_all(answer.as_bytes()).unwrap();
                if sender.send(head.join("\n").to_lowercase()).is_err() {
                    return;
                }
            }
        });
        let environment = HashMap::from([
            ("http_proxy".to_owned(), format!("http://user:p%40ss@{host}")),
            ("NO_PROXY".to_owned(), "near.invalid".to_owned()),
        ]);
        let mut client =
            reqwest::Client::builder().tls_backend_preconfigured(crate::tls::config(None).unwrap());
        for proxy in proxies(|name| environment.get(name).cloned()) {
            client = client.proxy(proxy);
        }
        let client = client.build().unwrap();
        client.get("http://far.invalid/x").send().await.unwrap();
        let head = heads.recv().unwrap();
        assert!(head.starts_with("get http://far.invalid/x "), "{head}");
        assert!(head.contains("proxy-authorization: basic dxnlcjpwqhnz"), "{head}");
        client.get(format!("http://{host}/y")).send().await.unwrap();
        let head = heads.recv().unwrap();
        assert!(head.starts_with("get /y ") && !head.contains("proxy-authorization"), "{head}");
        assert!(client.get("http://near.invalid/z").send().await.is_err());
    }
}
