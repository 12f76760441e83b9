//! Readers: from a variable's text to its value, or to a complaint that names the variable, the
//! text and the expected form.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Variable;

/// Looks variables up and gathers complaints.
pub(super) struct Reader<'a> {
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    pub errors: Vec<String>,
}

impl Reader<'_> {
    /// The variable's value, or its default; an empty value counts as unset where there is a
    /// default to use instead.
    pub fn text(&self, variable: &Variable) -> String {
        (self.lookup)(variable.name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| variable.default.to_owned())
    }

    /// The same; nothing where the text is empty.
    pub fn optional(&self, variable: &Variable) -> Option<String> {
        Some(self.text(variable)).filter(|value| !value.is_empty())
    }

    /// The first of these variables that is set, and its value.
    pub fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names.iter().find_map(|name| {
            let value = (self.lookup)(name)?.trim().to_owned();
            (!value.is_empty()).then_some((*name, value))
        })
    }

    pub fn complain<T>(&mut self, name: &str, value: &str, expected: &str) -> Option<T> {
        self.errors
            .push(format!("{name}={value:?}: expected {expected}"));
        None
    }
}

/// A reader of texts that `parse` knows.
pub(super) fn parsed<T>(
    expected: impl Into<String>,
    parse: impl Fn(&str) -> Option<T>,
) -> impl FnOnce(&mut Reader, &Variable) -> Option<T> {
    let expected = expected.into();
    move |read, variable| {
        let value = read.text(variable);
        parse(&value).or_else(|| read.complain(variable.name, &value, &expected))
    }
}

/// The same where the variable may be unset.
pub(super) fn optional<T>(
    reader: impl FnOnce(&mut Reader, &Variable) -> Option<T>,
) -> impl FnOnce(&mut Reader, &Variable) -> Option<Option<T>> {
    move |read, variable| match read.optional(variable) {
        Some(_) => reader(read, variable).map(Some),
        None => Some(None),
    }
}

pub(super) fn text(read: &mut Reader, variable: &Variable) -> Option<String> {
    Some(read.text(variable))
}

pub(super) fn path(read: &mut Reader, variable: &Variable) -> Option<PathBuf> {
    Some(read.text(variable).into())
}

pub(super) fn whole(
    range: RangeInclusive<usize>,
) -> impl FnOnce(&mut Reader, &Variable) -> Option<usize> {
    let expected = format!("a whole number from {} to {}", range.start(), range.end());
    parsed(expected, move |text| {
        text.parse().ok().filter(|number| range.contains(number))
    })
}

pub(super) fn seconds(maximum: u32) -> impl FnOnce(&mut Reader, &Variable) -> Option<Duration> {
    let expected = format!("seconds, more than 0 and up to {maximum}");
    parsed(expected, move |text| {
        let seconds: f64 = text.parse().ok()?;
        (seconds > 0.0 && seconds <= f64::from(maximum)).then(|| Duration::from_secs_f64(seconds))
    })
}

/// A reader of a type that knows its names.
pub(super) fn one_of<T: FromStr, const N: usize>(
    names: [&str; N],
) -> impl FnOnce(&mut Reader, &Variable) -> Option<T> + use<T, N> {
    parsed(names.join(", "), |text| text.parse().ok())
}

pub(super) fn yes_or_no() -> impl FnOnce(&mut Reader, &Variable) -> Option<bool> {
    parsed("true or false", boolean)
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}
