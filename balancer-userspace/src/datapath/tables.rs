//! The pinned maps, opened and typed.

use std::{
    fs, io,
    mem::size_of,
    os::fd::{AsFd, OwnedFd},
};

use aya::maps::{HashMap, Map, MapData, MapError};
use balancer_common::abi::{
    Backend, BackendHealth, BackendHistory, BackendMeta, BackendStats, ClientKey, ClientState, Control,
    FrontendKey, Lifecycle, MAX_EXCLUDED, Offer, OfferOutcome, Service, ServiceMeta, ServiceStats, Slot,
    SocketState, UdpFlows,
};

use super::{Access, DatapathError, MappedArray, Pins, sys};

/// A map as this version lays it out.
pub(super) struct MapSpec {
    pub(super) name: &'static str,
    pub(super) key_size: usize,
    pub(super) value_size: usize,
}

const fn spec<K, V>(name: &'static str) -> MapSpec {
    MapSpec { name, key_size: size_of::<K>(), value_size: size_of::<V>() }
}

/// Every map that is pinned.
pub(super) const MAPS: [MapSpec; 17] = [
    spec::<FrontendKey, u32>("FRONTENDS"),
    spec::<u32, Service>("SERVICES"),
    spec::<u32, ServiceStats>("SERVICE_STATS"),
    spec::<u32, Slot>("SLOTS"),
    spec::<u32, Backend>("BACKENDS"),
    spec::<u32, BackendStats>("BACKEND_STATS"),
    spec::<u32, BackendHealth>("BACKEND_HEALTH"),
    spec::<u32, BackendHistory>("BACKEND_HISTORY"),
    spec::<u32, Lifecycle>("LIFECYCLE"),
    spec::<u64, Offer>("OFFERS"),
    spec::<ClientKey, ClientState>("CLIENTS"),
    spec::<u64, u32>("EXCLUDED"),
    spec::<u32, Control>("CONTROL"),
    spec::<u32, ServiceMeta>("SERVICE_META"),
    spec::<u32, BackendMeta>("BACKEND_META"),
    spec::<i32, SocketState>("SOCKETS"),
    spec::<i32, UdpFlows>("UDP_FLOWS"),
];

/// The pinned maps.
#[derive(Debug)]
pub struct Maps {
    /// The lease, and what the agent says of itself; one entry.
    pub control: MappedArray<Control>,
    /// By service id.
    pub services: MappedArray<Service>,
    /// By service id.
    pub service_stats: MappedArray<ServiceStats>,
    /// Runs of slots.
    pub slots: MappedArray<Slot>,
    /// By backend id.
    pub backends: MappedArray<Backend>,
    /// By backend id.
    pub backend_stats: MappedArray<BackendStats>,
    /// By backend id.
    pub backend_health: MappedArray<BackendHealth>,
    /// By backend id.
    pub backend_history: MappedArray<BackendHistory>,
    /// By service id.
    pub lifecycle: MappedArray<Lifecycle>,
    offers: HashMap<MapData, u64, Offer>,
    frontends: HashMap<MapData, FrontendKey, u32>,
    clients: HashMap<MapData, ClientKey, ClientState>,
    service_meta: HashMap<MapData, u32, ServiceMeta>,
    backend_meta: HashMap<MapData, u32, BackendMeta>,
    excluded: HashMap<MapData, u64, u32>,
    max_clients: u32,
    sockets: OwnedFd,
    flows: OwnedFd,
}

impl Maps {
    /// Opens what is pinned.
    ///
    /// # Errors
    /// [`DatapathError::NotInstalled`] if nothing is, [`DatapathError::Permission`] without the rights,
    /// [`DatapathError::Incompatible`] if a map is not as this version lays it out.
    pub fn open(pins: &Pins, access: Access) -> Result<Self, DatapathError> {
        check_layout(pins)?;
        Ok(Self {
            control: array(pins, "CONTROL", access)?,
            services: array(pins, "SERVICES", access)?,
            service_stats: array(pins, "SERVICE_STATS", access)?,
            slots: array(pins, "SLOTS", access)?,
            backends: array(pins, "BACKENDS", access)?,
            backend_stats: array(pins, "BACKEND_STATS", access)?,
            backend_health: array(pins, "BACKEND_HEALTH", access)?,
            backend_history: array(pins, "BACKEND_HISTORY", access)?,
            lifecycle: array(pins, "LIFECYCLE", access)?,
            offers: hash(pins, "OFFERS")?,
            frontends: hash(pins, "FRONTENDS")?,
            clients: hash(pins, "CLIENTS")?,
            service_meta: hash(pins, "SERVICE_META")?,
            backend_meta: hash(pins, "BACKEND_META")?,
            excluded: hash(pins, "EXCLUDED")?,
            max_clients: check_map(pins, &spec::<ClientKey, ClientState>("CLIENTS"))?,
            sockets: open(pins, "SOCKETS")?,
            flows: open(pins, "UDP_FLOWS")?,
        })
    }

    /// Gives the memory back through which backends were read, which are the most of all that is mapped. Those
    /// that are asked for again take some again.
    ///
    /// # Errors
    /// What the kernel says; the maps stay usable.
    pub fn release(&mut self) -> io::Result<()> {
        self.backend_stats.release()?;
        self.backend_health.release()?;
        self.backend_history.release()?;
        self.backends.release()
    }

    /// Whether it is these maps that are pinned; somebody may have removed them, or put others in place.
    pub fn are_pinned(&self, pins: &Pins) -> bool {
        let own = sys::map_info(self.control.fd()).map(|info| info.id);
        let pinned = sys::obj_get(&pins.map("CONTROL")).and_then(|fd| Ok(sys::map_info(fd.as_fd())?.id));
        // What cannot be looked at is not known to be gone.
        match (own, pinned) {
            (Ok(own), Ok(pinned)) => own == pinned,
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }

    /// The agent's own entry.
    pub fn control(&self) -> Control {
        // The map has exactly one entry.
        self.control.get(0).unwrap_or_else(bytemuck::Zeroable::zeroed)
    }

    /// Service id of what is dialled.
    pub fn frontend(&self, key: &FrontendKey) -> Result<Option<u32>, DatapathError> {
        absent(self.frontends.get(key, 0)).map_err(map_error("FRONTENDS"))
    }

    /// Everything that is dialled, with its service id.
    pub fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DatapathError> {
        self.frontends.iter().collect::<Result<_, _>>().map_err(map_error("FRONTENDS"))
    }

    /// Makes `key` lead to a Service.
    ///
    /// # Errors
    /// [`DatapathError::Full`] if there is no room.
    pub fn insert_frontend(&mut self, key: &FrontendKey, service: u32) -> Result<(), DatapathError> {
        let capacity = self.services.len();
        self.frontends
            .insert(key, &service, 0)
            .map_err(|error| full(error, "FRONTENDS", capacity, "max-services"))
    }

    /// Makes `key` lead nowhere.
    pub fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), DatapathError> {
        absent(self.frontends.remove(key)).map(drop).map_err(map_error("FRONTENDS"))
    }

    /// What is remembered of a client.
    pub fn client(&self, key: &ClientKey) -> Result<Option<ClientState>, DatapathError> {
        absent(self.clients.get(key, 0)).map_err(map_error("CLIENTS"))
    }

    /// The names of all Services, by id.
    pub fn service_metas(&self) -> Result<Vec<(u32, ServiceMeta)>, DatapathError> {
        self.service_meta.iter().collect::<Result<_, _>>().map_err(map_error("SERVICE_META"))
    }

    /// The names of one Service.
    pub fn service_meta(&self, id: u32) -> Result<Option<ServiceMeta>, DatapathError> {
        absent(self.service_meta.get(&id, 0)).map_err(map_error("SERVICE_META"))
    }

    /// Names a Service.
    pub fn set_service_meta(&mut self, id: u32, meta: &ServiceMeta) -> Result<(), DatapathError> {
        let capacity = self.services.len();
        self.service_meta
            .insert(&id, meta, 0)
            .map_err(|error| full(error, "SERVICE_META", capacity, "max-services"))
    }

    /// Forgets the names of a Service.
    pub fn remove_service_meta(&mut self, id: u32) -> Result<(), DatapathError> {
        absent(self.service_meta.remove(&id)).map(drop).map_err(map_error("SERVICE_META"))
    }

    /// The names of one backend.
    pub fn backend_meta(&self, id: u32) -> Result<Option<BackendMeta>, DatapathError> {
        absent(self.backend_meta.get(&id, 0)).map_err(map_error("BACKEND_META"))
    }

    /// Names a backend.
    pub fn set_backend_meta(&mut self, id: u32, meta: &BackendMeta) -> Result<(), DatapathError> {
        let capacity = self.backends.len();
        self.backend_meta
            .insert(&id, meta, 0)
            .map_err(|error| full(error, "BACKEND_META", capacity, "max-backends"))
    }

    /// Forgets the names of a backend.
    pub fn remove_backend_meta(&mut self, id: u32) -> Result<(), DatapathError> {
        absent(self.backend_meta.remove(&id)).map(drop).map_err(map_error("BACKEND_META"))
    }

    /// The ids of the cgroups that are left alone.
    pub fn excluded(&self) -> Result<Vec<u64>, DatapathError> {
        self.excluded.keys().collect::<Result<_, _>>().map_err(map_error("EXCLUDED"))
    }

    /// Whether the cgroup of this id is left alone.
    pub fn is_excluded(&self, cgroup: u64) -> Result<bool, DatapathError> {
        absent(self.excluded.get(&cgroup, 0)).map(|entry| entry.is_some()).map_err(map_error("EXCLUDED"))
    }

    /// Leaves a cgroup alone.
    ///
    /// # Errors
    /// [`DatapathError::TooManyExcluded`] if there is no room.
    pub fn insert_excluded(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        self.excluded.insert(&cgroup, &1, 0).map_err(|error| match error {
            MapError::SyscallError(inner) if inner.io_error.raw_os_error() == Some(libc::E2BIG) => {
                DatapathError::TooManyExcluded(MAX_EXCLUDED)
            }
            error => map_error("EXCLUDED")(error),
        })
    }

    /// Leaves a cgroup alone no more.
    pub fn remove_excluded(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        absent(self.excluded.remove(&cgroup)).map(drop).map_err(map_error("EXCLUDED"))
    }

    /// The offers, by socket cookie.
    pub fn offers(&self) -> Result<Vec<(u64, Offer)>, DatapathError> {
        self.offers.iter().collect::<Result<_, _>>().map_err(map_error("OFFERS"))
    }

    /// Offers a connection, or offers it anew. `false` if there is no room.
    pub fn insert_offer(&mut self, cookie: u64, offer: &Offer) -> Result<bool, DatapathError> {
        match self.offers.insert(&cookie, offer, 0) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(inner)) if inner.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Ok(false)
            }
            Err(error) => Err(map_error("OFFERS")(error)),
        }
    }

    /// Takes an offer back.
    pub fn remove_offer(&mut self, cookie: u64) -> Result<(), DatapathError> {
        absent(self.offers.remove(&cookie)).map(drop).map_err(map_error("OFFERS"))
    }

    /// Takes an offer back of which nothing is known yet: what comes next is of our own doing. Where that fails, or comes
    /// at this very moment, it counts.
    pub fn withdraw_offer(&mut self, cookie: u64) {
        let pending = |offer: Offer| offer.outcome == OfferOutcome::Pending as u32;
        if self.offers.get(&cookie, 0).is_ok_and(pending)
            && let Err(error) = self.remove_offer(cookie)
        {
            log::debug!("an offer is left over: {error}");
        }
    }

    /// The storage map of connected sockets.
    pub fn sockets(&self) -> std::os::fd::BorrowedFd<'_> {
        self.sockets.as_fd()
    }

    /// What the programs recorded with a connected socket that this process holds.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn socket_state(&self, socket: std::os::fd::BorrowedFd<'_>) -> io::Result<Option<SocketState>> {
        sys::storage(self.sockets.as_fd(), socket)
    }

    /// What the programs recorded with an unconnected UDP socket that this process holds.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn socket_flows(&self, socket: std::os::fd::BorrowedFd<'_>) -> io::Result<Option<UdpFlows>> {
        sys::storage(self.flows.as_fd(), socket)
    }

    /// The storage map of unconnected UDP sockets.
    pub fn flows(&self) -> std::os::fd::BorrowedFd<'_> {
        self.flows.as_fd()
    }

    /// How many clients are remembered; counts them.
    pub fn count_clients(&self) -> u64 {
        self.clients.keys().filter(Result::is_ok).count() as u64
    }

    /// How many clients can be remembered.
    pub const fn max_clients(&self) -> u32 {
        self.max_clients
    }
}

/// Checks that every pin is there and laid out as this version expects.
fn check_layout(pins: &Pins) -> Result<(), DatapathError> {
    match fs::metadata(pins.version()) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DatapathError::NotInstalled(pins.version()));
        }
        Err(error) => return Err(DatapathError::io("cannot open", pins.version())(error)),
    }
    MAPS.iter().try_for_each(|spec| check_map(pins, spec).map(drop))
}

/// The capacity of a pinned map; `None` if it is not pinned.
///
/// # Errors
/// [`DatapathError::Incompatible`] if it is not as this version lays it out.
pub(super) fn pinned_capacity(pins: &Pins, spec: &MapSpec) -> Result<Option<u32>, DatapathError> {
    match check_map(pins, spec) {
        Ok(capacity) => Ok(Some(capacity)),
        Err(DatapathError::NotInstalled(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn check_map(pins: &Pins, spec: &MapSpec) -> Result<u32, DatapathError> {
    let path = pins.map(spec.name);
    let fd = open(pins, spec.name)?;
    let info = sys::map_info(fd.as_fd()).map_err(DatapathError::io("cannot read the facts of", &path))?;
    for (what, found, expected) in
        [("key", info.key_size, spec.key_size), ("value", info.value_size, spec.value_size)]
    {
        if found as usize != expected {
            let reason = format!("its {what} has {found} bytes where {expected} are expected");
            return Err(DatapathError::Incompatible { path, reason });
        }
    }
    Ok(info.max_entries)
}

fn open(pins: &Pins, name: &str) -> Result<OwnedFd, DatapathError> {
    let path = pins.map(name);
    sys::obj_get(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DatapathError::NotInstalled(path),
        _ => DatapathError::io("cannot open", path)(error),
    })
}

fn array<T: bytemuck::Pod>(
    pins: &Pins,
    name: &'static str,
    access: Access,
) -> Result<MappedArray<T>, DatapathError> {
    MappedArray::new(open(pins, name)?, access).map_err(DatapathError::io("cannot map", pins.map(name)))
}

fn hash<K: aya::Pod, V: aya::Pod>(
    pins: &Pins,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, DatapathError> {
    MapData::from_pin(pins.map(name))
        .and_then(Map::from_map_data)
        .and_then(HashMap::try_from)
        .map_err(map_error(name))
}

pub(super) fn map_error(map: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    move |cause| DatapathError::Map { map, cause: Box::new(cause) }
}

/// A missing key is no error.
fn absent<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn full(error: MapError, map: &'static str, capacity: u32, flag: &'static str) -> DatapathError {
    match &error {
        MapError::SyscallError(inner) if inner.io_error.raw_os_error() == Some(libc::E2BIG) => {
            DatapathError::Full { map, capacity, flag }
        }
        _ => DatapathError::Map { map, cause: Box::new(error) },
    }
}
