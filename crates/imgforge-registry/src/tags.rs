//! The tags of a repository, page by page.

use imgforge_http::header::LINK;
use imgforge_http::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::Failure;
use crate::auth::Scope;
use crate::error::Error;
use crate::registry::{Registry, check};

/// The longest page of tags, in bytes.
const PAGE: u64 = 4 << 20;
/// The most pages of tags.
const PAGES: usize = 10_000;
/// The most that all tags of a repository may come to, in bytes: two million of 64.
const TAGS: usize = 128 << 20;

impl Registry {
    /// All tags of a repository, sorted; none when there is no such repository (distribution specification, "Listing
    /// Tags").
    ///
    /// # Errors
    /// [`Error::Answer`] for pages without an end, and those of every request.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, Error> {
        check(repository)?;
        let what = format!("the tags of {repository}");
        let scope = Scope::pull(repository);
        let mut url = self.0.http.url(&format!("{repository}/tags/list?n=1000"));
        let (mut tags, mut length) = (Vec::new(), 0);
        for _ in 0..PAGES {
            let Some((page, next)) = self.page(&what, &scope, &url).await? else { return Ok(tags) };
            length += page.iter().map(String::len).sum::<usize>();
            if length > TAGS {
                return Err(self.answer(&what, format!("they come to more than {} MiB", TAGS >> 20)));
            }
            tags.extend(page);
            match next {
                None => {
                    // Distribution 2.x does not sort them.
                    tags.sort();
                    return Ok(tags);
                }
                Some(next) if next == url || !self.0.http.is_ours(&next) => {
                    return Err(self.answer(&what, "its next page is this one, or in another registry"));
                }
                Some(next) => url = next,
            }
        }
        Err(self.answer(&what, format!("there are more than {PAGES} pages")))
    }

    /// One page of tags, and where the next one is.
    async fn page(
        &self,
        what: &str,
        scope: &Scope,
        url: &Url,
    ) -> Result<Option<(Vec<String>, Option<Url>)>, Error> {
        let mut tries = self.tries(what);
        loop {
            match self.get_page(what, scope, url).await {
                Ok(page) => return Ok(page),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    async fn get_page(
        &self,
        what: &str,
        scope: &Scope,
        url: &Url,
    ) -> Result<Option<(Vec<String>, Option<Url>)>, Failure> {
        let answer = self.call(what, scope, |client| client.request(Method::GET, url.clone()), None).await?;
        match answer.response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(self.refused(what, answer).await),
        }
        let mut links = answer.response.headers().get_all(LINK).iter();
        let next = links.find_map(|link| next_link(link.to_str().ok()?));
        let next = match next {
            Some(next) => {
                Some(url.join(&next).map_err(|_| self.answer(what, "its link to the next page is wrong"))?)
            }
            None => None,
        };
        let bytes = self.0.http.read(answer.response, PAGE, what).await?;
        let page: TagList = serde_json::from_slice(&bytes).map_err(|e| self.answer(what, e.to_string()))?;
        Ok(Some((page.tags.unwrap_or_default(), next)))
    }
}

/// The address of `Link: <ADDRESS>; rel="next"` (RFC 8288).
fn next_link(link: &str) -> Option<String> {
    let mut rest = link;
    while let Some((_, after)) = rest.split_once('<') {
        let (address, parameters) = after.split_once('>')?;
        let end = parameters.find(",<").or_else(|| parameters.find(", <")).unwrap_or(parameters.len());
        let is_next = parameters[..end].split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(address.to_owned());
        }
        rest = &parameters[end..];
    }
    None
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        assert_eq!(
            next_link("</v2/a/tags/list?n=2&last=b>; rel=\"next\"").as_deref(),
            Some("/v2/a/tags/list?n=2&last=b")
        );
        assert_eq!(next_link("<x>; rel=prev, <y>; title=\"z\"; REL=\"last Next\"").as_deref(), Some("y"));
        assert_eq!(next_link("<x>; rel=prev"), None);
        assert_eq!(next_link("rel=next"), None);
        assert_eq!(next_link("<x; rel=next"), None);
    }
}
