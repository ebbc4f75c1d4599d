//! Lists found in the field: what we put in comes out again, and all else stays as it was.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn entry() -> Map<String, Value> {
    json!({ "type": "mesh-cni", "socket": "/run/weft/cni.sock" }).as_object().unwrap().clone()
}

/// kind's, Canal's, k3s' flannel, and one with everything in an odd place.
const FIELD: [&str; 4] = [
    r#"{"cniVersion":"0.3.1","name":"kindnet","plugins":[{"type":"ptp","ipMasq":false,"ipam":{"type":"host-local","dataDir":"/run/cni-ipam-state","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":"10.244.0.0/24"}]]},"mtu":1500},{"type":"portmap","capabilities":{"portMappings":true}}]}"#,
    r#"{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[{"type":"calico","log_level":"info","datastore_type":"kubernetes","nodename":"n","mtu":1450,"ipam":{"type":"host-local","subnet":"usePodCidr"},"policy":{"type":"k8s"},"kubernetes":{"kubeconfig":"/etc/cni/net.d/calico-kubeconfig"}},{"type":"portmap","snat":true,"capabilities":{"portMappings":true}},{"type":"bandwidth","capabilities":{"bandwidth":true}}]}"#,
    r#"{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"flannel","delegate":{"hairpinMode":true,"forceAddress":true,"isDefaultGateway":true}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#,
    r#"{"plugins":[{"zz":1,"type":"bridge","aa":2.5}],"disableCheck":true,"name":"x","unknown":[null],"cniVersion":"1.1.0"}"#,
];

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn lists_found_in_the_field_get_us_last_and_lose_us_again() {
    for text in FIELD {
        let with = insert_plugin(text, &entry()).unwrap();
        let plugins = value(&with)["plugins"].as_array().unwrap().clone();
        assert_eq!(plugins.last(), Some(&Value::Object(entry())));
        let without = remove_plugin(&with, "mesh-cni").unwrap();
        assert_eq!(value(&without).to_string(), value(text).to_string(), "with the order of keys");
    }
}

#[test]
fn what_is_written_reads_well() {
    expect_test::expect![[r#"
        {
          "plugins": [
            {
              "zz": 1,
              "type": "bridge",
              "aa": 2.5
            },
            {
              "type": "mesh-cni",
              "socket": "/run/weft/cni.sock"
            }
          ],
          "disableCheck": true,
          "name": "x",
          "unknown": [
            null
          ],
          "cniVersion": "1.1.0"
        }
    "#]]
    .assert_eq(&insert_plugin(FIELD[3], &entry()).unwrap());
}

#[test]
fn nothing_to_do_changes_no_byte() {
    let ours = value(FIELD[0]);
    let odd = format!("  {ours}\n\n");
    assert_eq!(remove_plugin(&odd, "mesh-cni").unwrap(), odd);
    let with = insert_plugin(&odd, &entry()).unwrap().replace('\n', "\r\n");
    assert_eq!(insert_plugin(&with, &entry()).unwrap(), with);
}

#[test]
fn an_old_entry_is_replaced_where_it_stands() {
    let text =
        r#"{"plugins":[{"type":"ptp"},{"type":"mesh-cni","socket":"/old"},{"type":"tuning"},{"type":"mesh-cni"}]}"#;
    let with = value(&insert_plugin(text, &entry()).unwrap());
    assert_eq!(with, json!({ "plugins": [{ "type": "ptp" }, entry(), { "type": "tuning" }] }));
}

#[test]
fn in_front_of_the_primary_we_are_moved_back() {
    let text = r#"{"plugins":[{"type":"mesh-cni"},{"type":"ptp"}]}"#;
    assert_eq!(value(&insert_plugin(text, &entry()).unwrap()), json!({ "plugins": [{ "type": "ptp" }, entry()] }));
}

#[test]
fn what_is_no_list_is_left_alone() {
    let cases = [
        ("", "the network configuration list cannot be read: nothing was given"),
        (
            r#"{"type":"bridge"}"#,
            "it has no `plugins`: a single plugin's configuration has to be made a list (.conflist) first",
        ),
        (
            r#"{"plugins":{}}"#,
            "it has no `plugins`: a single plugin's configuration has to be made a list (.conflist) first",
        ),
        (r#"{"plugins":[{"type":"a"},{}]}"#, "plugins[1] is not an object with a `type`"),
        (r#"{"plugins":[1]}"#, "plugins[0] is not an object with a `type`"),
        (r#"{"plugins":[]}"#, "`plugins` is empty: there must be one that gives pods their interface and address"),
        (
            r#"{"plugins":[{"type":"mesh-cni"}]}"#,
            "`plugins` is empty: there must be one that gives pods their interface and address",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(insert_plugin(text, &entry()).unwrap_err().to_string(), message);
    }
    assert!(matches!(insert_plugin(FIELD[0], &Map::new()), Err(ConflistError::Entry)));
    assert_eq!(
        value(&remove_plugin(r#"{"plugins":[{"type":"mesh-cni"}]}"#, "mesh-cni").unwrap()),
        json!({ "plugins": [] })
    );
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no NaN", |f| f.is_finite()).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,4}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_conflist() -> impl Strategy<Value = Value> {
    let plugin =
        (prop::collection::vec(("[a-z]{1,4}", any_value()), 0..4), "[a-ln-z]{1,6}").prop_map(|(fields, kind)| {
            let mut fields: Map<String, Value> = fields.into_iter().collect();
            fields.insert("type".to_owned(), kind.into());
            Value::Object(fields)
        });
    let plugins = prop::collection::vec(plugin, 1..5);
    (prop::collection::vec((".{0,5}", any_value()), 0..5), plugins).prop_map(|(fields, plugins)| {
        let mut fields: Map<String, Value> = fields.into_iter().collect();
        fields.insert("plugins".to_owned(), plugins.into());
        Value::Object(fields)
    })
}

proptest! {
    #[test]
    fn insert_then_remove_is_the_same_document_in_the_same_order(conflist in any_conflist()) {
        let text = conflist.to_string();
        let with = insert_plugin(&text, &entry()).unwrap();
        prop_assert_eq!(insert_plugin(&with, &entry()).unwrap(), with.clone());
        let without = remove_plugin(&with, "mesh-cni").unwrap();
        prop_assert_eq!(value(&without).to_string(), text);
    }

    #[test]
    fn fz_04_nothing_panics(text in "[\\[\\]{}\":,a-z]{0,60}") {
        drop(insert_plugin(&text, &entry()));
        drop(remove_plugin(&text, "mesh-cni"));
    }
}
