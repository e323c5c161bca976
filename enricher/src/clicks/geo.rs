//! The place of an address, by databases in the MaxMind DB format. Two layouts are
//! read: MaxMind's nested names, and the flat names of ip-location-db.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use maxminddb::Reader;
use serde::Deserialize;

/// A geo database that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use the geo database {path}: {source}. Give a readable .mmdb file in enricher.geo_city or enricher.geo_country"
)]
pub struct GeoError {
    path: PathBuf,
    source: maxminddb::MaxMindDbError,
}

/// The place of an address, as far as it is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GeoPlace<'a> {
    pub(crate) country: Option<&'a str>,
    pub(crate) region: Option<&'a str>,
    pub(crate) city: Option<&'a str>,
}

/// Databases, searched in order until one has the address.
pub(crate) struct Geo {
    databases: Vec<Database>,
}

struct Database {
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
struct Country<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Subdivision<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Names<'a> {
    en: Option<&'a str>,
}

impl Geo {
    /// Reads the databases into memory, cities first.
    pub(crate) fn open<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Self, GeoError> {
        let databases = paths.into_iter().map(|path| Database::open(path)).collect::<Result<_, _>>()?;
        Ok(Self { databases })
    }

    pub(crate) fn place(&self, ip: IpAddr) -> GeoPlace<'_> {
        let ip = ip.to_canonical();
        self.databases.iter().find_map(|database| database.place(ip)).unwrap_or_default()
    }
}

impl Database {
    fn open(path: &Path) -> Result<Self, GeoError> {
        let reader = Reader::open_readfile(path).map_err(|source| GeoError { path: path.to_owned(), source })?;
        let v6 = reader.metadata().ip_version == 6;
        Ok(Self { reader, v6 })
    }

    fn place(&self, ip: IpAddr) -> Option<GeoPlace<'_>> {
        if ip.is_ipv6() && !self.v6 {
            return None;
        }
        let row: GeoRow<'_> = self.reader.lookup(ip).ok()?.decode().ok()??;
        let present = |text: &&str| !text.is_empty();
        let country = row.country_code.or_else(|| row.country?.iso_code).filter(present)?;
        let region = row.state1.or_else(|| row.subdivisions?.first()?.iso_code);
        let city = match row.city {
            Some(City::Flat(name)) => Some(name),
            Some(City::Nested { names }) => names.and_then(|names| names.en),
            None => None,
        };
        Some(GeoPlace { country: Some(country), region: region.filter(present), city: city.filter(present) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_database_is_named() {
        let error = Geo::open([&PathBuf::from("nowhere.mmdb")]).err().unwrap().to_string();
        assert!(error.contains("nowhere.mmdb") && error.contains("enricher.geo_city"), "{error}");
    }

    #[test]
    fn without_databases_nothing_is_known() {
        let geo = Geo::open([]).unwrap();
        assert_eq!(geo.place("8.8.8.8".parse().unwrap()), GeoPlace::default());
    }
}
