//! How much a named key may ask of this process: requests a minute, and tokens a day.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::keys::{KeyName, Keys, is_name};
use crate::http::error::Rejection;

const MINUTE_US: u64 = 60_000_000;
const DAY_US: u64 = 24 * 60 * MINUTE_US;
/// The name of every key that has no limits of its own.
const OTHERS: &str = "*";
const MAX_RPM: u64 = 1_000_000;
const MAX_TOKENS: u64 = 1_000_000_000_000_000;

/// The limits of keys, by their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeyLimits(BTreeMap<String, Limits>);

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Limits {
    rpm: Option<u64>,
    tokens_per_day: Option<u64>,
}

impl KeyLimits {
    /// Reads `NAME:rpm=60,tokens_per_day=1000000`, several of them with `;` between.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (place, entry) in (1..).zip(text.split(';')) {
            // One at the end is no mistake.
            if entry.trim().is_empty() && place > 1 {
                continue;
            }
            let (name, limits) = entry
                .split_once(':')
                .ok_or_else(|| format!("entry {place} has no colon after a name"))?;
            let name = name.trim();
            if name != OTHERS && !is_name(name) {
                return Err(format!("entry {place}: {name:?} is no name of a key"));
            }
            let limits = Limits::parse(limits).map_err(|error| format!("{name}: {error}"))?;
            if all.insert(name.to_owned(), limits).is_some() {
                return Err(format!("{name} stands there twice"));
            }
        }
        Ok(Self(all))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names that none of these keys has.
    pub fn unknown(&self, keys: &Keys) -> Vec<&str> {
        let known = |name: &str| match name {
            OTHERS => keys.has_names(),
            name => keys.has_name(name),
        };
        let names = self.0.keys().map(String::as_str);
        names.filter(|name| !known(name)).collect()
    }

    /// Says which limits bind nobody now. A later file may have the name.
    pub fn tell_unknown(&self, keys: &Keys) {
        for name in self.unknown(keys) {
            tracing::warn!("KEY_LIMITS has {name:?}, and no key of API_KEYS_FILE has this name");
        }
    }

    fn of(&self, name: &str) -> Option<Limits> {
        self.0.get(name).or_else(|| self.0.get(OTHERS)).copied()
    }
}

impl Limits {
    fn parse(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        for limit in text.split(',') {
            let (what, value) = limit
                .split_once('=')
                .ok_or_else(|| format!("{:?} is no limit", limit.trim()))?;
            let (what, value) = (what.trim(), value.trim());
            let (slot, most) = match what {
                "rpm" => (&mut limits.rpm, MAX_RPM),
                "tokens_per_day" => (&mut limits.tokens_per_day, MAX_TOKENS),
                _ => return Err(format!("{what:?} is none of rpm and tokens_per_day")),
            };
            let number = value.parse().ok().filter(|n| (1..=most).contains(n));
            let number = number
                .ok_or_else(|| format!("{what}={value} is no whole number of 1 to {most}"))?;
            if slot.replace(number).is_some() {
                return Err(format!("{what} stands there twice"));
            }
        }
        Ok(limits)
    }
}

/// Counts what the keys with limits have asked for.
#[derive(Default)]
pub struct Meter {
    limits: KeyLimits,
    used: Mutex<HashMap<KeyName, Used>>,
}

/// Times are in microseconds since 1970, by the wall clock: a monotonic one stands still while a function is frozen.
#[derive(Debug, Default)]
struct Used {
    /// When all requests so far would have come, one after the other at the limit's rate.
    full_until: u64,
    day: u64,
    tokens: u64,
}

impl Meter {
    pub fn new(limits: KeyLimits) -> Self {
        Self {
            limits,
            used: Mutex::default(),
        }
    }

    pub fn limits(&self) -> &KeyLimits {
        &self.limits
    }

    /// Lets a request of this key through, and counts it, or says when there is room for one.
    pub fn admit(&self, name: &KeyName, now: SystemTime) -> Result<(), Rejection> {
        self.with(name, now, |limits, used, now| {
            if let Some(limit) = limits.tokens_per_day
                && used.tokens >= limit
            {
                return Err(Rejection::KeyTokens {
                    used: used.tokens,
                    limit,
                    retry_after: Duration::from_micros(DAY_US - now % DAY_US),
                });
            }
            if let Some(limit) = limits.rpm {
                let each = MINUTE_US / limit;
                let whole = each * limit;
                // A clock that was set back costs a minute at most.
                used.full_until = used.full_until.clamp(now, now + whole);
                let next = used.full_until + each;
                if let Some(wait) = next.checked_sub(now + whole).filter(|wait| *wait > 0) {
                    return Err(Rejection::KeyRate {
                        limit,
                        retry_after: Duration::from_micros(wait),
                    });
                }
                used.full_until = next;
            }
            Ok(())
        })
        .unwrap_or(Ok(()))
    }

    /// Counts the tokens that were scored for this key.
    pub fn scored(&self, name: &KeyName, tokens: usize, now: SystemTime) {
        self.with(name, now, |_, used, _| used.tokens += tokens as u64);
    }

    fn with<T>(
        &self,
        name: &KeyName,
        now: SystemTime,
        count: impl FnOnce(Limits, &mut Used, u64) -> T,
    ) -> Option<T> {
        let limits = self.limits.of(name)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2);
        let mut all = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.entry(name.clone()).or_default();
        if used.day != now / DAY_US {
            (used.day, used.tokens) = (now / DAY_US, 0);
        }
        Some(count(limits, used, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = DAY_US / 1000;

    fn at(ms: u64) -> SystemTime {
        // A midnight in UTC.
        UNIX_EPOCH + Duration::from_millis(20_000 * DAY_MS + ms)
    }

    fn meter(limits: &str) -> Meter {
        Meter::new(KeyLimits::parse(limits).expect(limits))
    }

    #[test]
    fn limits_are_read_or_refused_by_what_is_wrong() {
        for (text, mobile) in [
            ("mobile:rpm=60", (Some(60), None)),
            ("mobile:tokens_per_day=5", (None, Some(5))),
            (
                " mobile : rpm = 1 , tokens_per_day = 2 ;",
                (Some(1), Some(2)),
            ),
            ("other:rpm=9; mobile:rpm=1", (Some(1), None)),
            ("*:rpm=3", (Some(3), None)),
            ("*:rpm=3;mobile:tokens_per_day=2", (None, Some(2))),
        ] {
            let limits = KeyLimits::parse(text).expect(text).of("mobile");
            let limits = limits.map(|limits| (limits.rpm, limits.tokens_per_day));
            assert_eq!(limits, Some(mobile), "{text}");
        }
        for (text, says) in [
            ("", "entry 1 has no colon"),
            ("mobile", "entry 1 has no colon"),
            ("mobile:rpm=1;app", "entry 2 has no colon"),
            ("my app:rpm=1", "\"my app\" is no name"),
            ("mobile:", "\"\" is no limit"),
            ("mobile:60", "\"60\" is no limit"),
            ("mobile:rmp=60", "\"rmp\" is none of rpm and tokens_per_day"),
            ("mobile:rpm=0", "rpm=0 is no whole number of 1 to"),
            ("mobile:rpm=1e3", "rpm=1e3 is no whole number"),
            ("mobile:rpm=1000001", "rpm=1000001 is no whole number"),
            ("mobile:rpm=1,rpm=2", "rpm stands there twice"),
            ("mobile:rpm=1;mobile:rpm=2", "mobile stands there twice"),
        ] {
            let error = KeyLimits::parse(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        let keys = Keys::parse(&["mobile=plain:a", "b"]).expect("keys");
        let limits = KeyLimits::parse("*:rpm=1;mobile:rpm=1;mobil:rpm=1").expect("limits");
        assert_eq!(limits.unknown(&keys), ["mobil"]);
        let nameless = Keys::parse(&["a"]).expect("a key");
        assert_eq!(limits.unknown(&nameless), ["*", "mobil", "mobile"]);
    }

    #[test]
    fn a_minute_has_its_requests_at_once_and_then_one_by_one() {
        let meter = meter("mobile:rpm=3");
        let (mobile, other): (KeyName, KeyName) = ("mobile".into(), "other".into());
        let wait = |name: &KeyName, ms| match meter.admit(name, at(ms)) {
            Ok(()) => None,
            Err(Rejection::KeyRate { limit, retry_after }) => {
                assert_eq!(limit, 3);
                Some(retry_after.as_millis())
            }
            Err(other) => panic!("{other:?}"),
        };
        for (ms, expected) in [
            (0, None),
            (0, None),
            (10, None),
            (10, Some(19_990)),
            (19_999, Some(1)),
            (20_000, None),
            (20_000, Some(20_000)),
            // The clock was set back by an hour; of what was used a minute is left.
            (0, Some(20_000)),
            (20_000, None),
            (900_000, None),
            (900_000, None),
            (900_000, None),
            (900_000, Some(20_000)),
        ] {
            assert_eq!(wait(&mobile, ms), expected, "at {ms} ms");
            assert_eq!(wait(&other, ms), None);
        }
    }

    #[test]
    fn a_day_has_its_tokens_and_ends_at_midnight() {
        let meter = meter("mobile:tokens_per_day=100;app:tokens_per_day=100,rpm=1");
        let mobile: KeyName = "mobile".into();
        let day = |ms| {
            meter
                .admit(&mobile, at(ms))
                .map_err(|refusal| match refusal {
                    Rejection::KeyTokens {
                        used,
                        limit: 100,
                        retry_after,
                    } => (used, retry_after.as_secs()),
                    other => panic!("{other:?}"),
                })
        };
        assert_eq!(day(0), Ok(()));
        meter.scored(&mobile, 99, at(0));
        assert_eq!(day(5), Ok(()));
        // The request that crosses the limit is answered.
        meter.scored(&mobile, 30, at(5));
        assert_eq!(day(3_600_000), Err((129, 23 * 3600)));
        assert_eq!(day(DAY_MS - 1), Err((129, 0)));
        assert_eq!(day(DAY_MS), Ok(()));
        // A request that is refused for the day takes none of the minute.
        let app: KeyName = "app".into();
        meter.scored(&app, 100, at(0));
        assert!(matches!(
            meter.admit(&app, at(0)),
            Err(Rejection::KeyTokens { .. })
        ));
        assert!(meter.admit(&app, at(DAY_MS)).is_ok());
        assert!(matches!(
            meter.admit(&app, at(DAY_MS)),
            Err(Rejection::KeyRate { .. })
        ));
    }
}
