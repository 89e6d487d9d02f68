//! Conditions of a listing, written for either version of the API.
//!
//! The names are those of v1, which Nova and Cinder pass on: `property-<key>` for properties. Nova's translation to v2
//! strips the characters of `property-` from the left, and so asks for `s_type` in place of `os_type` (still in its
//! master of 2026); here the prefix is cut off.

use std::time::SystemTime;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// What an image must have to be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Exactly this name.
    Name(String),
    /// Its record was changed at this time or later.
    ChangedSince(SystemTime),
    /// This value of this property.
    Property {
        /// The property.
        key: String,
        /// Its value.
        value: String,
    },
}

impl Filter {
    /// The filter that Nova and Cinder call `property-<key>`; `None` for other names.
    pub fn property(name: &str, value: &str) -> Option<Self> {
        let key = name.strip_prefix("property-").filter(|key| !key.is_empty())?;
        Some(Self::Property { key: key.to_owned(), value: value.to_owned() })
    }

    /// A pair of the query of `/v1/images/detail`.
    pub(super) fn v1(&self) -> String {
        match self {
            Self::Name(name) => format!("name={}", encoded(name)),
            Self::ChangedSince(time) => format!("changes-since={}", timestamp(*time)),
            Self::Property { key, value } => format!("property-{}={}", encoded(key), encoded(value)),
        }
    }

    /// A pair of the query of `/v2/images`.
    ///
    /// `eq:` takes all that follows it literally, commas, quotes and colons included; without it a name with a colon
    /// is an error 400.
    pub(super) fn v2(&self) -> String {
        match self {
            Self::Name(name) => format!("name=eq:{}", encoded(name)),
            Self::ChangedSince(time) => format!("updated_at=gte:{}", timestamp(*time)),
            Self::Property { key, value } => format!("{}={}", encoded(key), encoded(value)),
        }
    }
}

fn encoded(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// Glance compares seconds.
fn timestamp(time: SystemTime) -> impl std::fmt::Display {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_of_a_property_is_cut_off_and_no_letter_more() {
        // Nova makes of these `s_type`, `s_distro`, `amdisk_id` and an empty name.
        for key in ["os_type", "os_distro", "ramdisk_id", "type"] {
            let filter = Filter::property(&format!("property-{key}"), "x y").unwrap();
            let encoded = key.replace('_', "%5F");
            assert_eq!(filter.v2(), format!("{encoded}=x%20y"));
            assert_eq!(filter.v1(), format!("property-{encoded}=x%20y"));
        }
        assert_eq!(Filter::property("name", "x"), None);
        assert_eq!(Filter::property("property-", "x"), None);
    }

    #[test]
    fn each_version_has_its_own_words() {
        let name = Filter::Name("a:b".into());
        assert_eq!((&*name.v1(), &*name.v2()), ("name=a%3Ab", "name=eq:a%3Ab"));
        let since = Filter::ChangedSince(SystemTime::UNIX_EPOCH);
        let text = "1970-01-01T00:00:00Z";
        assert_eq!(since.v1(), format!("changes-since={text}"));
        assert_eq!(since.v2(), format!("updated_at=gte:{text}"));
    }
}
