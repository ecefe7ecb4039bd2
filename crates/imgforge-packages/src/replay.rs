//! Replayed indexes: a signature does not say that an index is the newest one.
//!
//! Who stands between a repository and us can hand out any index that was ever signed, and so keep updates away or
//! bring old holes back. The lock knows the date of the index that it was made by, and older ones are refused. So are
//! those from the future: one that was taken would make every right one after it an older one.

use std::collections::BTreeMap;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::error::Error;
use crate::release::{TIMESTAMP, age};

/// How far clocks may differ, in seconds.
const SKEW: i64 = 3_600;

/// What is known of a source's indexes from before.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// By suite: the date of the index that was last gone by, in UTC (`20261126T210000Z`).
    pub dates: BTreeMap<String, String>,
    /// Takes any date, as the user has asked for.
    pub is_any_taken: bool,
}

impl Seen {
    /// Refuses an index that is older than the one that was seen, or made after `now` (seconds since 1970).
    pub(crate) fn check(&self, url: &str, suite: &str, date: Option<&str>, now: i64) -> Result<(), Error> {
        if self.is_any_taken {
            return Ok(());
        }
        let seen = self.dates.get(suite);
        let Some(date) = date else {
            return match seen {
                Some(seen) => Err(Error::Undated { url: url.to_owned(), seen: seen.clone() }),
                None => Ok(()),
            };
        };
        let url = url.to_owned();
        if let Some(ahead) = seconds(date).map(|made| made - now).filter(|ahead| *ahead > SKEW) {
            return Err(Error::Future { url, date: date.to_owned(), ahead: age(ahead) });
        }
        match seen {
            // Written alike, so that the earlier one comes first.
            Some(seen) if date < seen.as_str() => {
                Err(Error::Replayed { url, date: date.to_owned(), seen: seen.clone() })
            }
            _ => Ok(()),
        }
    }
}

fn seconds(date: &str) -> Option<i64> {
    let at = DateTime::strptime(TIMESTAMP, date).ok()?;
    Some(TimeZone::UTC.to_timestamp(at).ok()?.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = "20261126T210000Z";

    fn checked(date: Option<&str>, now: &str, is_any_taken: bool) -> String {
        let seen = Seen { dates: BTreeMap::from([("bookworm".into(), SEEN.into())]), is_any_taken };
        let found = seen.check("http://m/InRelease", "bookworm", date, seconds(now).unwrap());
        found.map_or_else(|error| error.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn an_index_is_not_older_than_the_last_one_and_not_from_the_future() {
        let now = "20261201T120000Z";
        assert_eq!(checked(Some(SEEN), now, false), "taken");
        assert_eq!(checked(Some("20261130T000000Z"), now, false), "taken");
        assert_eq!(checked(Some("20261201T125959Z"), now, false), "taken", "clocks differ");
        for (date, why) in [
            (Some("20261126T205959Z"), "older than the one that the lock was made by"),
            (Some("20200101T000000Z"), "older than"),
            (Some("20261203T120000Z"), "2 days in the future"),
            (None, "has no date"),
        ] {
            let refused = checked(date, now, false);
            assert!(refused.contains(why) && refused.contains("--accept-index-date"), "{refused}");
            assert_eq!(checked(date, now, true), "taken");
        }
        let nothing = Seen::default();
        assert!(nothing.check("u", "bookworm", Some("20200101T000000Z"), seconds(now).unwrap()).is_ok());
        assert!(nothing.check("u", "bookworm", None, 0).is_ok());
    }
}
