//! Results in every version: pass-through, conversion, shape, and the typed view.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn bridge() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            { "name": "cni0", "mac": "00:11:22:33:44:55", "mtu": 1500 },
            { "name": "veth3243", "mac": "55:44:33:22:11:11" },
            { "name": "eth0", "mac": "99:88:77:66:55:44", "mtu": 1420, "sandbox": "/var/run/netns/blue", "pciID": "", "x": 1 },
        ],
        "ips": [
            { "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2 },
            { "address": "fd00::5/64", "interface": 2, "unknown": { "z": 1, "a": 2 } },
        ],
        "routes": [{ "dst": "0.0.0.0/0", "mtu": 1400 }, { "dst": "::/0", "gw": "fd00::1", "priority": 3 }],
        "dns": { "nameservers": ["10.1.0.1"] },
        "vendor": { "kept": true },
    })
}

fn read(document: Value) -> AddResult {
    AddResult::read(document, Version::NEWEST).unwrap()
}

#[test]
fn cn_18_in_its_own_version_nothing_changes() {
    let printed = read(bridge()).into_version(Version::V1_1_0).into_json();
    assert_eq!(printed.to_string(), bridge().to_string(), "values and the order of keys");
}

#[test]
fn cn_18_a_result_that_does_not_say_its_version_is_of_the_configurations() {
    let result = AddResult::read(json!({ "ips": [], "x": 1 }), Version::V1_0_0).unwrap();
    assert_eq!(result.version(), Version::V1_0_0);
    assert_eq!(
        result.into_version(Version::V1_0_0).into_json().to_string(),
        r#"{"cniVersion":"1.0.0","ips":[],"x":1}"#
    );
}

#[test]
fn cn_10_down_to_0_4_each_address_says_its_family_and_newer_fields_go() {
    let printed = read(bridge()).into_version(Version::V0_4_0).into_json();
    expect_test::expect![[r#"
        {
          "cniVersion": "0.4.0",
          "interfaces": [
            {
              "name": "cni0",
              "mac": "00:11:22:33:44:55"
            },
            {
              "name": "veth3243",
              "mac": "55:44:33:22:11:11"
            },
            {
              "name": "eth0",
              "mac": "99:88:77:66:55:44",
              "sandbox": "/var/run/netns/blue",
              "x": 1
            }
          ],
          "ips": [
            {
              "version": "4",
              "address": "10.1.0.5/16",
              "gateway": "10.1.0.1",
              "interface": 2
            },
            {
              "version": "6",
              "address": "fd00::5/64",
              "interface": 2,
              "unknown": {
                "z": 1,
                "a": 2
              }
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0"
            },
            {
              "dst": "::/0",
              "gw": "fd00::1"
            }
          ],
          "dns": {
            "nameservers": [
              "10.1.0.1"
            ]
          },
          "vendor": {
            "kept": true
          }
        }"#]]
    .assert_eq(&format!("{printed:#}"));
}

#[test]
fn cn_10_up_from_0_3_1_the_family_goes() {
    let old = json!({ "cniVersion": "0.3.1", "ips": [{ "version": "4", "address": "10.1.0.5/16" }], "dns": {} });
    assert_eq!(
        read(old).into_version(Version::V1_0_0).into_json(),
        json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.1.0.5/16" }], "dns": {} })
    );
}

#[test]
fn what_only_1_1_0_has_goes_for_1_0_0_and_is_not_in_the_view() {
    let result = read(bridge()).into_version(Version::V1_0_0);
    assert!(result.fields()["interfaces"][2].get("mtu").is_none());
    assert_eq!(result.view().interfaces[2].mtu, None);
    assert_eq!(result.view(), read(result.clone().into_json()).view());
}

#[test]
fn the_view_shows_what_enforcement_needs() {
    let result = read(bridge());
    let view = result.view();
    assert_eq!(view.addresses("eth0"), [IpAddr::from([10, 1, 0, 5]), "fd00::5".parse().unwrap()]);
    assert!(view.addresses("eth1").is_empty());
    let inside = view.sandbox_interface("eth0").unwrap();
    assert_eq!((inside.mac, inside.mtu), (Some([0x99, 0x88, 0x77, 0x66, 0x55, 0x44]), Some(1420)));
    assert_eq!(inside.sandbox.as_deref(), Some("/var/run/netns/blue"));
    assert!(view.sandbox_interface("veth3243").is_none(), "it is outside");
    let candidates: Vec<_> = view.host_links().map(|link| link.name.as_str()).collect();
    assert_eq!(candidates, ["veth3243", "cni0"]);
    assert_eq!(view.ips[0].gateway, Some(IpAddr::from([10, 1, 0, 1])));
}

#[test]
fn addresses_of_the_nodes_side_are_not_the_pods() {
    let result = read(json!({
        "interfaces": [{ "name": "eth0" }, { "name": "eth0", "sandbox": "/x" }],
        "ips": [{ "address": "10.0.0.1/24", "interface": 0 }, { "address": "10.0.0.2/24", "interface": 1 }],
    }));
    assert_eq!(result.view().addresses("eth0"), [IpAddr::from([10, 0, 0, 2])]);
}

#[test]
fn addresses_that_say_no_interface_are_the_pods() {
    let result = read(json!({ "interfaces": [{ "name": "cali1" }], "ips": [{ "address": "10.0.0.2/32" }] }));
    assert_eq!(result.view().addresses("eth0"), [IpAddr::from([10, 0, 0, 2])]);
    assert!(result.view().sandbox_interface("eth0").is_none());
}

#[test]
fn what_go_writes_for_nothing_is_nothing() {
    let result = read(json!({
        "cniVersion": "", "interfaces": [{ "name": "x", "mac": "", "mtu": 0, "sandbox": "" }], "routes": null, "dns": null,
        "ips": [{ "address": "10.0.0.2/32", "gateway": "", "interface": null }],
    }));
    let nothing = Interface { name: "x".to_owned(), mac: None, mtu: None, sandbox: None };
    assert_eq!(result.view().interfaces, [nothing]);
    assert_eq!(read(json!({})).view(), &View::default());
}

#[test]
fn infiniband_has_no_ethernet_address() {
    let mac = ["80"; 20].join(":");
    assert_eq!(read(json!({ "interfaces": [{ "name": "ib0", "mac": mac }] })).view().interfaces[0].mac, None);
}

#[test]
fn a_wrong_shape_is_refused_with_its_place() {
    let cases = [
        (json!([]), "it is not an object"),
        (json!({ "cniVersion": 1 }), "cniVersion is not a string"),
        (
            json!({ "cniVersion": "0.2.0" }),
            "its cniVersion: version \"0.2.0\" is not spoken; these are: 0.3.1, 0.4.0, 1.0.0, 1.1.0",
        ),
        (json!({ "interfaces": {} }), "interfaces is not a list"),
        (json!({ "interfaces": [1] }), "interfaces[0] is not an object"),
        (json!({ "interfaces": [{}] }), "interfaces[0].name is not an interface name"),
        (json!({ "interfaces": [{ "name": "a" }, { "name": 1 }] }), "interfaces[1].name is not a string"),
        (json!({ "interfaces": [{ "name": "a", "mac": "zz" }] }), "interfaces[0].mac is not a hardware address"),
        (
            json!({ "interfaces": [{ "name": "a", "mac": "0:1:2:3:4:5" }] }),
            "interfaces[0].mac is not a hardware address",
        ),
        (json!({ "interfaces": [{ "name": "a", "mtu": -1 }] }), "interfaces[0].mtu is not a number of bytes"),
        (json!({ "interfaces": [{ "name": "a", "sandbox": [] }] }), "interfaces[0].sandbox is not a string"),
        (json!({ "ips": [{}] }), "ips[0].address is not an address with a prefix length, as 10.1.0.5/24"),
        (
            json!({ "ips": [{ "address": "10.0.0.1" }] }),
            "ips[0].address is not an address with a prefix length, as 10.1.0.5/24",
        ),
        (json!({ "ips": [{ "address": "10.0.0.1/8", "gateway": "x" }] }), "ips[0].gateway is not an address"),
        (json!({ "ips": [{ "address": "10.0.0.1/8", "interface": -1 }] }), "ips[0].interface is not an index"),
        (
            json!({ "ips": [{ "address": "10.0.0.1/8", "interface": 0 }] }),
            "ips[0].interface is 0, and there are 0 interfaces",
        ),
        (json!({ "routes": [{ "dst": "x" }] }), "routes[0].dst is not an address with a prefix length"),
        (json!({ "dns": [] }), "dns is not an object"),
    ];
    for (document, message) in cases {
        assert_eq!(AddResult::read(document, Version::NEWEST).unwrap_err().to_string(), message);
    }
}

fn any_ip() -> impl Strategy<Value = Value> {
    prop_oneof![
        (any::<u32>(), 0..=32_u8)
            .prop_map(|(ip, n)| json!({ "address": format!("{}/{n}", std::net::Ipv4Addr::from(ip)) })),
        (any::<u128>(), 0..=128_u8)
            .prop_map(|(ip, n)| json!({ "address": format!("{}/{n}", std::net::Ipv6Addr::from(ip)) })),
    ]
}

fn any_version() -> impl Strategy<Value = Version> {
    prop::sample::select(&Version::ALL)
}

proptest! {
    #[test]
    fn there_and_back_is_the_same_for_what_the_older_version_can_say(
        ips in prop::collection::vec(any_ip(), 0..4), extra in "[a-z]{1,8}", from in any_version(), to in any_version(),
    ) {
        let document = json!({ "cniVersion": "1.0.0", "ips": ips, "interfaces": [{ "name": "a", "mac": "00:00:00:00:00:01" }], extra: 1 });
        let start = read(document).into_version(from);
        let there = start.clone().into_version(to);
        prop_assert_eq!(there.version(), to);
        prop_assert_eq!(&AddResult::read(there.clone().into_json(), Version::NEWEST).unwrap(), &there, "it reads as what it says it is");
        prop_assert_eq!(there.into_version(from), start);
    }

    #[test]
    fn fz_04_nothing_panics(text in "[\\[\\]{}\":,0-9a-z./-]{0,60}", key in "cniVersion|interfaces|ips|routes|dns") {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            for document in [json!({ &key: &value }), json!({ &key: [&value] }), value] {
                if let Ok(result) = AddResult::read(document, Version::NEWEST) {
                    drop(result.into_version(Version::V0_3_1).into_version(Version::V1_1_0));
                }
            }
        }
    }
}
