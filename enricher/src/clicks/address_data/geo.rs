//! The place of an address, and who announces it, by databases in the MaxMind DB
//! format. The layouts of MaxMind and DB-IP (nested names), of ip-location-db (flat
//! names) and of `IPinfo` are read.

use std::{fmt, net::IpAddr};

use maxminddb::{MaxMindDbError, Reader};
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor, value::MapAccessDeserializer},
};

/// The place of an address and the network that it is in, as far as they are known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GeoPlace<'a> {
    pub(crate) country: Option<&'a str>,
    pub(crate) region: Option<&'a str>,
    pub(crate) city: Option<&'a str>,
    pub(crate) asn: Option<u32>,
    pub(crate) organisation: Option<&'a str>,
}

/// A database in memory.
pub(crate) struct GeoDatabase {
    reader: Reader<Vec<u8>>,
    v6: bool,
}

#[derive(Deserialize)]
struct GeoRow<'a> {
    // ip-location-db.
    country_code: Option<&'a str>,
    state1: Option<&'a str>,
    city: Option<City<'a>>,
    // MaxMind.
    #[serde(borrow)]
    country: Option<Country<'a>>,
    subdivisions: Option<Vec<Subdivision<'a>>>,
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<&'a str>,
    // DB-IP.
    traits: Option<Traits<'a>>,
    // IPinfo: `AS64496`; IP2Location: `64496`.
    asn: Option<&'a str>,
    as_name: Option<&'a str>,
}

#[derive(Default, Deserialize)]
struct Traits<'a> {
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<&'a str>,
}

/// The city's name, or an object of names.
struct City<'a>(Option<&'a str>);

/// The country's code within an object. In databases of `IPinfo` its name stands here, and
/// the code in another field.
struct Country<'a>(Option<&'a str>);

#[derive(Deserialize)]
struct NestedCity<'a> {
    #[serde(borrow)]
    names: Option<Names<'a>>,
}

#[derive(Deserialize)]
struct NestedCountry<'a> {
    iso_code: Option<&'a str>,
}

// Not by `untagged`, which copies every value before it looks at its kind.
impl<'de: 'a, 'a> Deserialize<'de> for City<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CityVisitor;
        impl<'de> Visitor<'de> for CityVisitor {
            type Value = City<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a city's name or an object of names")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<City<'de>, E> {
                Ok(City(Some(name)))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<City<'de>, A::Error> {
                let NestedCity { names } = NestedCity::deserialize(MapAccessDeserializer::new(map))?;
                Ok(City(names.and_then(|names| names.en)))
            }
        }
        deserializer.deserialize_any(CityVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Country<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountryVisitor;
        impl<'de> Visitor<'de> for CountryVisitor {
            type Value = Country<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a country's name or an object with its code")
            }

            fn visit_borrowed_str<E: de::Error>(self, _: &'de str) -> Result<Country<'de>, E> {
                Ok(Country(None))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Country<'de>, A::Error> {
                Ok(Country(NestedCountry::deserialize(MapAccessDeserializer::new(map))?.iso_code))
            }
        }
        deserializer.deserialize_any(CountryVisitor)
    }
}

#[derive(Deserialize)]
struct Subdivision<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Names<'a> {
    en: Option<&'a str>,
}

impl GeoDatabase {
    /// Reads a database from the bytes of its file.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, MaxMindDbError> {
        let reader = Reader::from_source(bytes)?;
        let v6 = reader.metadata().ip_version == 6;
        Ok(Self { reader, v6 })
    }

    /// Checks the whole database.
    pub(super) fn verify(&self) -> Result<(), MaxMindDbError> {
        self.reader.verify()
    }

    /// The time at which the database was built, in seconds of Unix time.
    pub(super) fn built_at(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// Returns the facts of an address, where the database has any.
    pub(super) fn place(&self, ip: IpAddr) -> Option<GeoPlace<'_>> {
        if ip.is_ipv6() && !self.v6 {
            return None;
        }
        let row: GeoRow<'_> = self.reader.lookup(ip).ok()?.decode().ok()??;
        let present = |text: &&str| !text.is_empty();
        let nested = row.country.and_then(|Country(code)| code);
        let region = row.state1.or_else(|| row.subdivisions?.first()?.iso_code);
        let city = row.city.and_then(|City(name)| name);
        let traits = row.traits.unwrap_or_default();
        let named = || row.asn?.trim_start_matches("AS").parse().ok();
        let organisation = row.autonomous_system_organization.or(traits.autonomous_system_organization).or(row.as_name);
        Some(GeoPlace {
            country: row.country_code.or(nested).filter(present),
            region: region.filter(present),
            city: city.filter(present),
            asn: row.autonomous_system_number.or(traits.autonomous_system_number).or_else(named),
            organisation: organisation.filter(present),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_layout_are_read() {
        let read = |json| {
            let row: GeoRow<'_> = serde_json::from_str(json).unwrap();
            (row.country.and_then(|Country(code)| code), row.city.and_then(|City(name)| name))
        };
        let maxmind = r#"{"city":{"names":{"de":"Wien","en":"Vienna"},"geoname_id":1},"country":{"iso_code":"AT"}}"#;
        assert_eq!(read(maxmind), (Some("AT"), Some("Vienna")));
        assert_eq!(read(r#"{"city":"Vienna","country_code":"AT"}"#), (None, Some("Vienna")));
        assert_eq!(read(r#"{"country":"Austria","city":{},"asn":"AS1"}"#), (None, None));
        assert_eq!(read(r#"{"country":{"names":{}},"city":null}"#), (None, None));
    }
}
