//! Results and `prevResult` in every version we speak: kept value by value, checked in shape, shown through a typed view.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::version::{Version, VersionError};

/// Fields of an interface that came with 1.1.0.
const INTERFACE_FIELDS_1_1: [&str; 3] = ["mtu", "socketPath", "pciID"];
/// Fields of a route that came with 1.1.0.
const ROUTE_FIELDS_1_1: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

/// The result of an ADD, by whichever plugin. Unknown fields stay, as do the order of keys and every value.
#[derive(Clone, Debug, PartialEq)]
pub struct AddResult {
    version: Version,
    fields: Map<String, Value>,
    view: View,
}

/// What a result says, typed: the part of it that enforcement needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// All interfaces that the attachment made, in the order in which they were made.
    pub interfaces: Vec<Interface>,
    /// All addresses.
    pub ips: Vec<IpConfig>,
}

/// One interface of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name there where it is.
    pub name: String,
    /// Its Ethernet address; `None` where it is not said, or is no Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Its MTU, in bytes; `None` where it is not said.
    pub mtu: Option<u32>,
    /// Path of the network namespace in which it is; `None` for the node's own.
    pub sandbox: Option<String>,
}

/// One address of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// The address, with the length of its prefix.
    pub address: IpNet,
    /// The gateway of that prefix.
    pub gateway: Option<IpAddr>,
    /// Index of its interface in [`View::interfaces`], within bounds; `None` where it is not said.
    pub interface: Option<usize>,
}

/// What is wrong with a result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResultError {
    /// No object.
    #[error("it is not an object")]
    Object,
    /// `cniVersion` is not one of ours.
    #[error("its cniVersion: {0}")]
    Version(#[source] VersionError),
    /// A field is missing or of another kind.
    #[error("{field} is not {wanted}")]
    Field {
        /// Which, as a path: `ips[0].address`.
        field: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// `ips[].interface` points nowhere.
    #[error("ips[{ip}].interface is {index}, and there are {count} interfaces")]
    Index {
        /// Which address.
        ip: usize,
        /// What it says.
        index: u64,
        /// How many there are.
        count: usize,
    },
}

impl AddResult {
    /// Takes a result as it is. One that does not say its version is of the version `assumed`: that of the
    /// configuration it came with (CNI 1.1.0, appendix "Add example").
    ///
    /// # Errors
    /// It is of a version that is not spoken, or of a shape that no version has.
    pub fn read(document: Value, assumed: Version) -> Result<Self, ResultError> {
        let Value::Object(fields) = document else { return Err(ResultError::Object) };
        let version = match fields.get("cniVersion") {
            None | Some(Value::Null) => assumed,
            Some(Value::String(said)) if said.is_empty() => assumed,
            Some(Value::String(said)) => said.parse().map_err(ResultError::Version)?,
            Some(_) => return Err(ResultError::Field { field: "cniVersion".to_owned(), wanted: "a string" }),
        };
        let view = View::of(&fields)?;
        Ok(Self { version, fields, view })
    }

    /// The version it is written in.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What it says.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The document.
    #[must_use]
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// The same result as `version` writes it. In its own version nothing changes, save that `cniVersion` is said.
    ///
    /// To 0.3 and 0.4 each address gets its `version`; from them it is taken away. To versions before 1.1.0 the fields
    /// that came with it (`mtu`, `socketPath`, `pciID` of interfaces, all but `dst` and `gw` of routes) are taken away.
    #[must_use]
    pub fn into_version(mut self, version: Version) -> Self {
        let (old, new) = (self.version, version);
        if old < Version::V1_0_0 && new >= Version::V1_0_0 {
            each(&mut self.fields, "ips", |ip| {
                ip.shift_remove("version");
            });
        }
        if old >= Version::V1_0_0 && new < Version::V1_0_0 {
            each(&mut self.fields, "ips", |ip| {
                ip.shift_insert(0, "version".to_owned(), ip_version(ip).into());
            });
        }
        if old >= Version::V1_1_0 && new < Version::V1_1_0 {
            let without =
                |names: &'static [&str]| move |item: &mut Map<_, _>| item.retain(|key, _| !names.contains(&&**key));
            each(&mut self.fields, "interfaces", without(&INTERFACE_FIELDS_1_1));
            each(&mut self.fields, "routes", without(&ROUTE_FIELDS_1_1));
            self.view.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        // replaced where it stands, or put first
        match self.fields.get_mut("cniVersion") {
            Some(said) => *said = new.as_str().into(),
            None => {
                self.fields.shift_insert(0, "cniVersion".to_owned(), new.as_str().into());
            }
        }
        self.version = new;
        self
    }

    /// The document, to be printed.
    #[must_use]
    pub fn into_json(self) -> Value {
        Value::Object(self.fields)
    }
}

impl View {
    /// The addresses of the pod's interface `ifname`: those that say so, and those that do not say whose they are.
    /// An address of another interface is not one of them: plugins may list what they gave to the node's side.
    #[must_use]
    pub fn addresses(&self, ifname: &str) -> Vec<IpAddr> {
        let inside = |index: usize| {
            self.interfaces.get(index).is_some_and(|found| found.name == ifname && found.sandbox.is_some())
        };
        let ours = self.ips.iter().filter(|ip| ip.interface.is_none_or(inside));
        ours.map(|ip| ip.address.addr()).collect()
    }

    /// The interface `ifname` inside of the sandbox. Some plugins list none.
    #[must_use]
    pub fn sandbox_interface(&self, ifname: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|found| found.name == ifname && found.sandbox.is_some())
    }

    /// What may be the node's end of the pod's link, the likeliest first: the interfaces in no sandbox, the last made
    /// first, as a bridge comes before its port. Which it is, only the kernel knows.
    pub fn host_links(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().rev().filter(|found| found.sandbox.is_none())
    }

    fn of(fields: &Map<String, Value>) -> Result<Self, ResultError> {
        let interfaces = items(fields, "interfaces")?.map(|(path, item)| Interface::of(&path, item));
        let interfaces = interfaces.collect::<Result<Vec<_>, _>>()?;
        let ips = items(fields, "ips")?.enumerate();
        let ips = ips.map(|(ip, (path, item))| IpConfig::of(&path, ip, item, interfaces.len()));
        let ips = ips.collect::<Result<Vec<_>, _>>()?;
        for (path, item) in items(fields, "routes")? {
            let route = object(&path, item)?;
            text(&path, route, "dst")?
                .and_then(|dst| dst.parse::<IpNet>().ok())
                .ok_or_else(|| wrong(format!("{path}.dst"), "an address with a prefix length"))?;
        }
        match fields.get("dns") {
            None | Some(Value::Null | Value::Object(_)) => Ok(Self { interfaces, ips }),
            Some(_) => Err(wrong("dns".to_owned(), "an object")),
        }
    }
}

impl Interface {
    fn of(path: &str, item: &Value) -> Result<Self, ResultError> {
        let fields = object(path, item)?;
        let name = text(path, fields, "name")?.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong(format!("{path}.name"), "an interface name"))?.to_owned();
        let mac = match text(path, fields, "mac")? {
            None | Some("") => None,
            Some(said) => octets(said).ok_or_else(|| wrong(format!("{path}.mac"), "a hardware address"))?,
        };
        let mtu = match fields.get("mtu") {
            None | Some(Value::Null) => None,
            Some(said) => {
                let said = said.as_u64().and_then(|mtu| u32::try_from(mtu).ok());
                Some(said.ok_or_else(|| wrong(format!("{path}.mtu"), "a number of bytes"))?)
            }
        };
        let sandbox = text(path, fields, "sandbox")?.filter(|sandbox| !sandbox.is_empty()).map(str::to_owned);
        Ok(Self { name, mac, mtu: mtu.filter(|mtu| *mtu > 0), sandbox })
    }
}

impl IpConfig {
    fn of(path: &str, ip: usize, item: &Value, count: usize) -> Result<Self, ResultError> {
        let fields = object(path, item)?;
        let address = text(path, fields, "address")?.and_then(|address| address.parse().ok());
        let address = address
            .ok_or_else(|| wrong(format!("{path}.address"), "an address with a prefix length, as 10.1.0.5/24"))?;
        let gateway = match text(path, fields, "gateway")? {
            None | Some("") => None,
            Some(said) => Some(said.parse().ok().ok_or_else(|| wrong(format!("{path}.gateway"), "an address"))?),
        };
        let interface = match fields.get("interface") {
            None | Some(Value::Null) => None,
            Some(said) => {
                let index = said.as_u64().ok_or_else(|| wrong(format!("{path}.interface"), "an index"))?;
                let within = usize::try_from(index).ok().filter(|index| *index < count);
                Some(within.ok_or(ResultError::Index { ip, index, count })?)
            }
        };
        Ok(Self { address, gateway, interface })
    }
}

fn wrong(field: String, wanted: &'static str) -> ResultError {
    ResultError::Field { field, wanted }
}

fn object<'a>(path: &str, item: &'a Value) -> Result<&'a Map<String, Value>, ResultError> {
    item.as_object().ok_or_else(|| wrong(path.to_owned(), "an object"))
}

/// A string field; `None` where it is missing or null.
fn text<'a>(path: &str, fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ResultError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(said)) => Ok(Some(said)),
        Some(_) => Err(wrong(format!("{path}.{name}"), "a string")),
    }
}

/// The items of a list with their paths; a missing list and null are an empty one, as Go writes it.
fn items<'a>(
    fields: &'a Map<String, Value>,
    name: &'static str,
) -> Result<impl Iterator<Item = (String, &'a Value)>, ResultError> {
    let list = match fields.get(name) {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong(name.to_owned(), "a list")),
    };
    Ok(list.iter().enumerate().map(move |(index, item)| (format!("{name}[{index}]"), item)))
}

/// Changes each object of a list.
fn each(fields: &mut Map<String, Value>, name: &str, change: impl Fn(&mut Map<String, Value>)) {
    let list = fields.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut).for_each(change);
}

/// "4" or "6". The address has been read before: it is one of the two.
fn ip_version(ip: &Map<String, Value>) -> &'static str {
    let address = ip.get("address").and_then(Value::as_str).unwrap_or_default();
    if address.contains(':') { "6" } else { "4" }
}

/// `None` for what is no hardware address, `Some(None)` for one that is not Ethernet's (InfiniBand has 20 octets).
fn octets(text: &str) -> Option<Option<[u8; 6]>> {
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let octet = |part: &str| if digits(part) { u8::from_str_radix(part, 16).ok() } else { None };
    let octets: Vec<u8> = text.split([':', '-']).map(octet).collect::<Option<_>>()?;
    if octets.len() > 20 { None } else { Some(octets.try_into().ok()) }
}

#[cfg(test)]
mod tests;
