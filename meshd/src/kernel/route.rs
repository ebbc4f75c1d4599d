//! Policy rules and the routes of our two tables, by rtnetlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use plan::{Route, RouteKey, RouteTable, RouteTarget};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::{MARK_MASK, MARK_OUTER, MARK_OUTSIDER};

/// Our routes and rules carry this originator, so that leftovers are recognised (rtnetlink(7), RTPROT above 4 is free
/// for user space; not in /etc/iproute2/rt_protos).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0xb7);
/// Tables of remote workloads and of remote nodes.
const TABLE_PODS: u32 = 5182;
const TABLE_NODES: u32 = 5183;
const TABLE_MAIN: u32 = 254;

/// One of our policy rules: priority, mark (with our mask) or "did not come from this host itself", table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    priority: u32,
    mark: Option<u32>,
    forwarded: bool,
    table: u32,
}

/// Whoever is not known to be outside the mesh looks into our tables first: should the filter and its marks be lost,
/// an enrolled workload's packets still lead into the mesh and not around it. Outer packets never meet our tables, nor
/// do those of workloads that are pinned as outsiders. This host's own packets meet the workloads' table alone.
const RULES: [Rule; 4] = [
    Rule { priority: 5180, mark: Some(MARK_OUTER), forwarded: false, table: TABLE_MAIN },
    Rule { priority: 5181, mark: Some(MARK_OUTSIDER), forwarded: false, table: TABLE_MAIN },
    Rule { priority: 5182, mark: None, forwarded: false, table: TABLE_PODS },
    Rule { priority: 5183, mark: None, forwarded: true, table: TABLE_NODES },
];

fn table_id(table: RouteTable) -> u32 {
    match table {
        RouteTable::Pods => TABLE_PODS,
        RouteTable::Nodes => TABLE_NODES,
    }
}

/// Makes our rules be there, once each; true when one was missing.
pub(super) async fn ensure_rules(handle: &Handle, families: &[IpVersion]) -> anyhow::Result<bool> {
    let mut missing = false;
    for family in families {
        let held = ours(handle, family.clone()).await?;
        for rule in RULES {
            if !held.iter().any(|message| is(message, rule)) {
                missing = true;
                add_rule(handle, family, rule).await?;
            }
        }
    }
    Ok(missing)
}

/// Whether every rule is there.
pub(super) async fn has_rules(handle: &Handle, families: &[IpVersion]) -> anyhow::Result<bool> {
    for family in families {
        let held = ours(handle, family.clone()).await?;
        if !RULES.iter().all(|rule| held.iter().any(|message| is(message, *rule))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes our rules away.
pub(super) async fn remove_rules(handle: &Handle, families: &[IpVersion]) -> anyhow::Result<()> {
    for family in families {
        for message in ours(handle, family.clone()).await? {
            handle.rule().del(message).execute().await.context("cannot remove a policy rule")?;
        }
    }
    Ok(())
}

async fn ours(handle: &Handle, family: IpVersion) -> anyhow::Result<Vec<RuleMessage>> {
    let all: Vec<RuleMessage> =
        handle.rule().get(family).execute().try_collect().await.context("cannot list policy rules")?;
    let priorities = RULES.map(|rule| rule.priority);
    let mine = |m: &RuleMessage| priority_of(m).is_some_and(|p| priorities.contains(&p));
    Ok(all.into_iter().filter(mine).collect())
}

fn priority_of(message: &RuleMessage) -> Option<u32> {
    message.attributes.iter().find_map(|a| if let RuleAttribute::Priority(p) = a { Some(*p) } else { None })
}

fn is(message: &RuleMessage, rule: Rule) -> bool {
    let mut table = u32::from(message.header.table);
    let (mut mark, mut mask, mut local) = (None, None, false);
    for attribute in &message.attributes {
        if let RuleAttribute::Table(id) = attribute {
            table = *id;
        } else if let RuleAttribute::FwMark(found) = attribute {
            mark = Some(*found);
        } else if let RuleAttribute::FwMask(found) = attribute {
            mask = Some(*found);
        } else if let RuleAttribute::Iifname(name) = attribute {
            local = name == "lo";
        }
    }
    let inverted = message.header.flags.contains(RuleFlags::Invert);
    let marked = mark == rule.mark && (rule.mark.is_none() || mask == Some(MARK_MASK));
    priority_of(message) == Some(rule.priority)
        && table == rule.table
        && marked
        && local == rule.forwarded
        && inverted == rule.forwarded
}

async fn add_rule(handle: &Handle, family: &IpVersion, rule: Rule) -> anyhow::Result<()> {
    let mut request = handle.rule().add().table_id(rule.table).priority(rule.priority).action(RuleAction::ToTable);
    if let Some(mark) = rule.mark {
        request = request.fw_mark(mark);
        request.message_mut().attributes.push(RuleAttribute::FwMask(MARK_MASK));
    }
    if rule.forwarded {
        request = request.input_interface("lo");
        request.message_mut().header.flags.insert(RuleFlags::Invert);
    }
    request.message_mut().attributes.push(RuleAttribute::Protocol(PROTOCOL));
    let added = match family {
        IpVersion::V4 => request.v4().execute().await,
        IpVersion::V6 => request.v6().execute().await,
    };
    added.with_context(|| format!("cannot add the policy rule at priority {}", rule.priority))
}

/// The routes of our tables as the kernel has them; of one that leads elsewhere than we would have it, or with another source,
/// no target.
pub(super) type Held = BTreeMap<RouteKey, Option<RouteTarget>>;

/// The routes of our tables, of which those into the mesh lead to this device and bear one of these sources.
pub(super) async fn held_routes(
    handle: &Handle,
    families: &[IpVersion],
    (tun, own): (u32, &BTreeSet<IpAddr>),
) -> anyhow::Result<Held> {
    let mut held = BTreeMap::new();
    for family in families {
        // whatever else is in it the kernel takes for what is wanted
        let mut query = RouteMessage::default();
        query.header.address_family = match family {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        };
        let all: Vec<RouteMessage> =
            handle.route().get(query).execute().try_collect().await.context("cannot list routes")?;
        held.extend(all.iter().filter_map(|message| read(message, tun, own)));
    }
    Ok(held)
}

fn read(message: &RouteMessage, tun: u32, own: &BTreeSet<IpAddr>) -> Option<(RouteKey, Option<RouteTarget>)> {
    let mut table = u32::from(message.header.table);
    let (mut destination, mut oif, mut source) = (None, None, None);
    for attribute in &message.attributes {
        if let RouteAttribute::Table(id) = attribute {
            table = *id;
        } else if let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute {
            destination = Some(IpAddr::V4(*ip));
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(ip)) = attribute {
            destination = Some(IpAddr::V6(*ip));
        } else if let RouteAttribute::Oif(index) = attribute {
            oif = Some(*index);
        } else if let RouteAttribute::PrefSource(RouteAddress::Inet(ip)) = attribute {
            source = Some(IpAddr::V4(*ip));
        } else if let RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) = attribute {
            source = Some(IpAddr::V6(*ip));
        }
    }
    let table = [RouteTable::Pods, RouteTable::Nodes].into_iter().find(|t| table_id(*t) == table)?;
    let is_v4 = message.header.address_family == AddressFamily::Inet;
    let unspecified = if is_v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let prefix = IpNet::new(destination.unwrap_or(unspecified), message.header.destination_prefix_length).ok()?;
    let target = if message.header.kind == RouteType::Throw {
        Some(RouteTarget::Main)
    } else if message.header.kind == RouteType::Unicast && oif == Some(tun) && source == source_of(prefix, own) {
        Some(RouteTarget::Mesh)
    } else {
        None
    };
    Some(((table, prefix), target))
}

/// What the node's own programs send into the mesh bears this address of the node, which its identity has.
fn source_of(prefix: IpNet, own: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    own.iter().find(|ip| ip.is_ipv4() == prefix.addr().is_ipv4()).copied()
}

fn message(route: &Route, tun: u32, own: &BTreeSet<IpAddr>) -> anyhow::Result<RouteMessage> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.prefix.network(), route.prefix.prefix_len())
        .with_context(|| format!("{} is no destination", route.prefix))?
        .table_id(table_id(route.table))
        .protocol(PROTOCOL);
    builder = match route.target {
        RouteTarget::Mesh => builder.output_interface(tun),
        RouteTarget::Main => builder.kind(RouteType::Throw),
    };
    if let (RouteTarget::Mesh, Some(source)) = (route.target, source_of(route.prefix, own)) {
        builder = builder.pref_source(source).with_context(|| format!("{source} is no source"))?;
    }
    Ok(builder.build())
}

/// Adds a route, or makes the one with this destination lead where this one does.
pub(super) async fn put(handle: &Handle, route: &Route, tun: u32, own: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
    // IPv6 adds a second next hop where a route of another type is to be replaced, so the old one goes first; in the
    // moment between, the filter's `keyed` and `unknown_destination` keep clear text in
    if route.target == RouteTarget::Main || route.prefix.addr().is_ipv6() {
        let other = match route.target {
            RouteTarget::Main => RouteTarget::Mesh,
            RouteTarget::Mesh => RouteTarget::Main,
        };
        remove(handle, &Route { target: other, ..*route }, tun).await?;
    }
    let message = message(route, tun, own)?;
    handle.route().add(message).replace().execute().await.with_context(|| format!("cannot route {}", route.prefix))
}

/// Removes a route; one that is not there is as good.
pub(super) async fn remove(handle: &Handle, route: &Route, tun: u32) -> anyhow::Result<()> {
    match handle.route().del(message(route, tun, &BTreeSet::new())?).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if is_absent(error.raw_code()) => Ok(()),
        other => other.with_context(|| format!("cannot remove the route of {}", route.prefix)),
    }
}

/// ESRCH (no such route) or ENODEV (its device is gone, and the route with it), as netlink reports them.
fn is_absent(code: i32) -> bool {
    matches!(-code, 3 | 19)
}
