//! What is in our sets and maps, as nft lists it, against what was put there: whether somebody took an element out, or in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use plan::Filter;
use policy::nft::{self as rules, Program};

use super::{filter, nft};

/// Elements by table (`ip weft_policy`) and set.
pub(super) struct Elements(BTreeMap<(String, String), BTreeSet<String>>);

impl Elements {
    /// Lists these tables whole; one that is not there has no sets.
    pub(super) async fn of(tables: &[&str]) -> Self {
        let mut text = String::new();
        for table in tables {
            let words: Vec<_> = ["-n", "list", "table"].into_iter().chain(table.split(' ')).collect();
            text += &nft::run(&words, "").await.unwrap_or_default();
        }
        Self::read(&text)
    }

    fn read(text: &str) -> Self {
        let mut found: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        let (mut table, mut set, mut is_inside) = ("", None, false);
        for line in text.lines() {
            let name = line.strip_prefix("\tset ").or_else(|| line.strip_prefix("\tmap "));
            if let Some(name) = line.strip_prefix("table ") {
                table = name.trim_end_matches(" {");
            } else if let Some(name) = name {
                let key = (table.to_owned(), name.trim_end_matches(" {").to_owned());
                found.entry(key.clone()).or_default();
                set = Some(key);
            } else if line == "\t}" {
                set = None;
            }
            let rest = line.trim().strip_prefix("elements = {");
            is_inside |= rest.is_some() && set.is_some();
            if !is_inside {
                continue;
            }
            let list = rest.unwrap_or(line).trim();
            let elements = list.trim_end_matches('}').split(',').map(str::trim).filter(|element| !element.is_empty());
            if let Some(into) = set.as_ref().and_then(|key| found.get_mut(key)) {
                into.extend(elements.map(str::to_owned));
            }
            is_inside = !list.ends_with('}');
        }
        Self(found)
    }

    fn get(&self, table: &str, set: &str) -> Option<&BTreeSet<String>> {
        self.0.get(&(table.to_owned(), set.to_owned()))
    }

    /// Whether the mesh's own sets hold what they should.
    pub(super) fn has_mesh(&self, wished: &Filter) -> bool {
        filter::sets(wished).iter().all(|(name, wanted)| {
            let is_ranges = filter::is_ranges(name);
            self.get("inet weft", name).is_some_and(|held| {
                if is_ranges { ranges(held) == ranges(wanted) } else { plain(held) == plain(wanted) }
            })
        })
    }

    /// Whether the sets and maps of these policies do.
    pub(super) fn has_policies(&self, program: &Program) -> bool {
        let of = |family: &str| {
            let table = format!("{family} {}", rules::TABLE);
            program.elements(family).all(|(name, wanted)| self.get(&table, name).map(plain) == Some(plain(&wanted)))
        };
        program.is_empty() || (of("ip") && of("ip6"))
    }
}

/// Addresses in one way of writing, whoever wrote them.
fn plain(elements: &BTreeSet<String>) -> BTreeSet<String> {
    let word = |word: &str| word.parse::<IpAddr>().map_or_else(|_| word.to_owned(), |ip| ip.to_string());
    elements.iter().map(|element| element.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect()
}

/// Ranges as first and last address, with those that touch made one; what is no range is none.
fn ranges(elements: &BTreeSet<String>) -> Vec<(u128, u128)> {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let one = |text: &String| -> Option<(u128, u128)> {
        if let Some((first, last)) = text.split_once('-') {
            return Some((number(first.parse().ok()?), number(last.parse().ok()?)));
        }
        let net: IpNet = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
        Some((number(net.network()), number(net.broadcast())))
    };
    let mut all: Vec<_> = elements.iter().filter_map(one).collect();
    all.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "table inet weft {\n\tset keyed4 {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1, 10.0.0.2,\n\t\t\t     10.0.0.3 }\n\t}\n\n\
                        \tset keyed6 {\n\t\ttype ipv6_addr\n\t}\n\n\tset open_ports4 {\n\t\ttype ipv4_addr . inet_service\n\t\telements = { 10.0.0.1 . 80 }\n\t}\n\n\
                        \tchain c {\n\t\tct reply proto-src { 80, 81 } accept\n\t}\n}\ntable ip weft_policy {\n\tmap inbound_network {\n\
                        \t\ttype ipv4_addr : verdict\n\t\telements = { 10.0.0.1 : goto in_1 }\n\t}\n}\n";

    #[test]
    fn elements_are_read_over_several_lines_and_rules_are_none() {
        let elements = Elements::read(TEXT);
        let of = |table: &str, set: &str| elements.get(table, set).map(|held| held.iter().cloned().collect::<Vec<_>>());
        assert_eq!(of("inet weft", "keyed4").unwrap(), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(of("inet weft", "keyed6").unwrap(), Vec::<String>::new());
        assert_eq!(of("inet weft", "open_ports4").unwrap(), ["10.0.0.1 . 80"]);
        assert_eq!(of("ip weft_policy", "inbound_network").unwrap(), ["10.0.0.1 : goto in_1"]);
        assert_eq!(of("inet weft", "nobody"), None);
    }

    #[test]
    fn a_set_is_the_same_however_it_is_written() {
        let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(plain(&set(&["fd00:0::1 . 80"])), plain(&set(&["fd00::1 . 80"])));
        assert_eq!(ranges(&set(&["10.0.0.0/16", "10.1.0.0/16"])), ranges(&set(&["10.0.0.0/15"])));
        assert_eq!(ranges(&set(&["10.0.0.0/24", "10.0.1.0/25"])), ranges(&set(&["10.0.0.0-10.0.1.127"])));
        assert_ne!(ranges(&set(&["10.0.0.0/16", "10.2.0.0/16"])), ranges(&set(&["10.0.0.0/16"])));
    }
}
