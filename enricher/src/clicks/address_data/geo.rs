//! The place of an address, and who announces it, by databases in the MaxMind DB
//! format. The layouts of MaxMind and DB-IP (nested names), of ip-location-db (flat
//! names) and of `IPinfo` are read.

use std::net::IpAddr;

use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;

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

#[derive(Deserialize)]
#[serde(untagged)]
enum City<'a> {
    Flat(&'a str),
    Nested {
        #[serde(borrow)]
        names: Option<Names<'a>>,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Country<'a> {
    /// The country's name, in databases of `IPinfo`.
    #[allow(dead_code, reason = "what stands there is a text, and the code is in another field")]
    Name(&'a str),
    Nested {
        iso_code: Option<&'a str>,
    },
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
        let nested = match row.country {
            Some(Country::Nested { iso_code }) => iso_code,
            Some(Country::Name(_)) | None => None,
        };
        let region = row.state1.or_else(|| row.subdivisions?.first()?.iso_code);
        let city = match row.city {
            Some(City::Flat(name)) => Some(name),
            Some(City::Nested { names }) => names.and_then(|names| names.en),
            None => None,
        };
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
