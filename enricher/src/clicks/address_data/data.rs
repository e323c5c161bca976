//! The facts of an address as the files have them at one moment.

use std::{net::IpAddr, sync::Arc};

use super::{
    geo::{GeoDatabase, GeoPlace},
    networks::{NetworkRanges, SpecialNetwork},
};

/// The contents of the files at one moment.
#[derive(Default)]
pub(crate) struct AddressData {
    /// Searched in this order until one knows the country.
    pub(super) places: Vec<Arc<GeoDatabase>>,
    /// Searched where no place tells who announces the address.
    pub(super) asns: Vec<Arc<GeoDatabase>>,
    pub(super) networks: Option<Arc<NetworkRanges>>,
}

impl AddressData {
    /// Returns the place of an address and the network that it is in.
    pub(crate) fn place(&self, ip: IpAddr) -> GeoPlace<'_> {
        let ip = ip.to_canonical();
        let known = |place: &GeoPlace<'_>| place.country.is_some();
        let mut place = self.places.iter().find_map(|database| database.place(ip).filter(known)).unwrap_or_default();
        if place.asn.is_none()
            && let Some(announced) = self.asns.iter().find_map(|database| database.place(ip))
        {
            (place.asn, place.organisation) = (announced.asn, announced.organisation);
        }
        place
    }

    /// Returns the special network that an address is in.
    pub(crate) fn network(&self, ip: IpAddr) -> Option<&SpecialNetwork> {
        self.networks.as_ref()?.find(ip.to_canonical())
    }

    /// Facts of `ranges.bin` alone, for tests.
    #[cfg(test)]
    pub(crate) fn of_ranges() -> Self {
        let ranges = NetworkRanges::read(&super::sample::ranges_file()).ok().map(Arc::new);
        Self { networks: ranges, ..Self::default() }
    }
}
