//! The names of the services and their versions.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A service of Bookinfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// The page that a browser shows, made of what the others say.
    Productpage,
    /// Facts about the book.
    Details,
    /// What readers wrote.
    Reviews,
    /// How many stars they gave.
    Ratings,
}

/// A version of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// `reviews`: no stars.
    #[default]
    V1,
    /// `reviews`: black stars.
    V2,
    /// `reviews`: red stars.
    V3,
}

/// A name that no service, or no version, has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnknownName {
    /// Not a service.
    #[error("`{0}` is no service of bookinfo; there are productpage, details, reviews and ratings")]
    Service(String),
    /// Not a version.
    #[error("`{0}` is no version; there are v1, v2 and v3")]
    Version(String),
}

impl Service {
    /// All services, callers before those they call.
    pub const ALL: [Self; 4] = [Self::Productpage, Self::Details, Self::Reviews, Self::Ratings];

    /// The name, as others put it into the `Host` header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Productpage => "productpage",
            Self::Details => "details",
            Self::Reviews => "reviews",
            Self::Ratings => "ratings",
        }
    }
}

impl Version {
    /// All versions, in order.
    pub const ALL: [Self; 3] = [Self::V1, Self::V2, Self::V3];

    /// The name, such as `v1`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }
}

impl FromStr for Service {
    type Err = UnknownName;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|service| service.as_str() == name);
        found.ok_or_else(|| UnknownName::Service(name.to_owned()))
    }
}

impl FromStr for Version {
    type Err = UnknownName;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|version| version.as_str() == name);
        found.ok_or_else(|| UnknownName::Version(name.to_owned()))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for service in Service::ALL {
            assert_eq!(service.as_str().parse(), Ok(service));
        }
        for version in Version::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
        }
        assert_eq!("Reviews".parse::<Service>(), Err(UnknownName::Service("Reviews".into())));
        assert_eq!("v4".parse::<Version>(), Err(UnknownName::Version("v4".into())));
    }
}
