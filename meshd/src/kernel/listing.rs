//! How many rules our chains hold, as nft lists them: whether somebody else emptied one, or took one away.

use std::collections::BTreeMap;

use policy::nft::{self as rules, Program};

use super::filter::{self, Fixed};
use super::nft;

/// The tables of policies, [`rules::TABLE`] of each family.
const POLICY_TABLES: [&str; 2] = ["ip weft_policy", "ip6 weft_policy"];

/// Rules by table (`ip weft_policy`) and chain.
pub(super) struct Listing(BTreeMap<(String, String), usize>);

impl Listing {
    /// Lists these tables without the elements of their sets; one that is not there has no chains. One call a table: nft
    /// 1.0.6 takes two tables of one name in one script for the same.
    pub(super) async fn of(tables: &[&str]) -> Self {
        let mut text = String::new();
        for table in tables {
            let words: Vec<_> = ["-t", "list", "table"].into_iter().chain(table.split(' ')).collect();
            text += &nft::run(&words, "").await.unwrap_or_default();
        }
        Self::read(&text)
    }

    /// The tables that hold a program.
    pub(super) fn tables_of(program: &Program) -> &'static [&'static str] {
        if program.is_empty() { &[] } else { &POLICY_TABLES }
    }

    fn read(text: &str) -> Self {
        let mut found = BTreeMap::new();
        let (mut table, mut chain) = ("", None);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("table ") {
                table = name.trim_end_matches(" {");
            } else if let Some(name) = line.strip_prefix("\tchain ") {
                let name = (table.to_owned(), name.trim_end_matches(" {").to_owned());
                found.insert(name.clone(), 0);
                chain = Some(name);
            } else if line == "\t}" {
                chain = None;
            } else if let Some(count) = chain.as_ref().and_then(|name| found.get_mut(name))
                && !line.starts_with("\t\ttype ")
            {
                *count += 1;
            }
        }
        Self(found)
    }

    fn holds(&self, table: &str, chain: &str, least: usize) -> bool {
        self.0.get(&(table.to_owned(), chain.to_owned())).is_some_and(|count| *count >= least)
    }

    /// Whether there is a filter of ours at all, of this version or another.
    pub(super) fn has_some_mesh(&self) -> bool {
        self.holds("inet weft", "forward", 1)
    }

    /// Whether the mesh's own chains, have their rules.
    pub(super) fn has_mesh(&self, fixed: &Fixed) -> bool {
        let chains = rules::rules_by_chain(&filter::chains(fixed));
        chains.iter().all(|(chain, least)| self.holds("inet weft", chain, *least))
    }

    /// Whether the pin of every one of these links has rules.
    pub(super) fn has_pins<'a>(&self, links: impl IntoIterator<Item = &'a String>) -> bool {
        links.into_iter().all(|link| self.holds("netdev weft", &format!("pin_{link}"), 1))
    }

    /// Whether the chains of these policies have their rules.
    pub(super) fn has_policies(&self, program: &Program) -> bool {
        let of = |family: &str| {
            let table = format!("{family} {}", rules::TABLE);
            program.chains(family).all(|(chain, least)| self.holds(&table, &chain, least))
        };
        program.is_empty() || (of("ip") && of("ip6"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "table inet weft {\n\tset a {\n\t\ttype ipv4_addr\n\t}\n\n\tchain forward {\n\t\ttype filter hook forward priority -5; policy accept;\n\
                        \t\tiifname \"mesh0\" accept\n\t\toifname \"mesh0\" accept\n\t}\n\n\tchain empty {\n\t}\n}\ntable netdev weft {\n\tchain pin_veth-1.2 {\n\
                        \t\ttype filter hook ingress device \"veth-1.2\" priority -500; policy drop;\n\t\tdrop\n\t}\n}\n";

    #[test]
    fn rules_are_counted_and_nothing_else_is() {
        let listing = Listing::read(TEXT);
        assert!(listing.holds("inet weft", "forward", 2) && !listing.holds("inet weft", "forward", 3));
        assert!(listing.holds("inet weft", "empty", 0) && !listing.holds("inet weft", "empty", 1));
        assert!(!listing.holds("inet weft", "a", 0), "a set is no chain");
        assert!(listing.has_pins([&"veth-1.2".to_owned()]) && !listing.has_pins([&"veth-2".to_owned()]));
        assert!(!listing.has_mesh(&Fixed { tun: "mesh0".to_owned(), flows_per_pod: 1 }), "most chains are missing");
        assert!(listing.has_policies(&Program::default()), "where nobody is judged there are no tables");
        assert!(POLICY_TABLES.iter().all(|table| table.ends_with(rules::TABLE)));
    }
}
