//! Act d: who gets in, by mode. The stranger is a pod that is not enrolled, and a host on the wire.

use serde_json::json;

use super::super::probe::exchange::Protocol;
use super::story::{SOON, Story, seen};
use crate::admin_reply::SeenFlow;

const CLIENT: &str = "demo/client";
const SERVER: &str = "demo/server";
const OUTSIDER: &str = "plain/client";

fn mode(mode: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: demo}}\n\
         spec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

/// PERMISSIVE: a stranger gets in, and is listed.
pub(super) fn permissive(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.report.section("d  Modes: PERMISSIVE, STRICT, DISABLE")?;
    let server = story.ipv4(SERVER)?;
    let outsider = story.ipv4(OUTSIDER)?.to_string();
    let gets_in = story.reaches(OUTSIDER, server)?;
    let is_it = |flow: &SeenFlow| flow.source == outsider && flow.port == 8080;
    let look = || Ok(story.status("n2")?.clear_seen.into_iter().find(is_it));
    let listed = story.wait("the stranger is listed", SOON, look).ok();
    let observed = json!({ "strangerServed": gets_in, "listedAs": listed.as_ref().map(|(flow, _)| describe(flow)) });
    story.report.check(
        "d: PERMISSIVE serves a stranger in clear text and lists it",
        gets_in && listed.is_some(),
        &observed,
    )
}

/// STRICT: strangers are refused and counted; a member passes, unseen.
pub(super) fn strict(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.apply(&mode("STRICT"))?;
    let took = story.wait_mode(SERVER, Some("STRICT"))?;
    let server = story.ipv4(SERVER)?;
    for who in [OUTSIDER, "stranger"] {
        let before = story.drops("n2", "plaintext_denied")?;
        let is_served = story.reaches(who, server)?;
        let counted = story.drops("n2", "plaintext_denied")? - before;
        let source = if who == OUTSIDER {
            story.ipv4(OUTSIDER)?.to_string()
        } else {
            story.lab.facts.stranger.addresses.iter().map(|a| a.addr().to_string()).next().unwrap_or_default()
        };
        let listed = story.status("n2")?.denied.into_iter().find(|f| f.source == source);
        let observed = json!({
            "served": is_served,
            "plaintextDenied": counted,
            "listedAs": listed.as_ref().map(describe),
            "modeInForceAfterMilliseconds": u64::try_from(took.as_millis())?,
        });
        let ok = !is_served && counted > 0 && listed.is_some();
        story.report.check(&format!("d: STRICT refuses {who}, counts it and lists it"), ok, &observed)?;
    }
    let capture = story.capture()?;
    let sent = story.send(CLIENT, server, (Protocol::Tcp, 200), "weft-demo-d-strict")?;
    let (markers, mut observed) = seen(&capture.end()?, "weft-demo-d-strict")?;
    if let Some(fields) = observed.as_object_mut() {
        fields.insert("received".to_owned(), json!(sent.received));
    }
    story.report.check("d: STRICT serves a mesh client, encrypted", sent.is_whole() && markers == 0, &observed)
}

/// DISABLE: clear text for everybody, as asked. Afterwards the pods are enrolled again.
pub(super) fn disable(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.apply(&mode("DISABLE"))?;
    story.wait_mode(SERVER, None)?;
    story.wait_mode(CLIENT, None)?;
    let server = story.ipv4(SERVER)?;
    let outsider =
        story.wait("a stranger is served under DISABLE", SOON, || Ok(story.reaches(OUTSIDER, server)?.then_some(())));
    let capture = story.capture()?;
    let sent = story.send(CLIENT, server, (Protocol::Tcp, 200), "weft-demo-d-disable")?;
    let (markers, mut observed) = seen(&capture.end()?, "weft-demo-d-disable")?;
    if let Some(fields) = observed.as_object_mut() {
        fields.insert("received".to_owned(), json!(sent.received));
        fields.insert("strangerServed".to_owned(), json!(outsider.is_ok()));
    }
    let ok = outsider.is_ok() && sent.is_whole() && markers > 0;
    story.report.check("d: DISABLE is clear text, for strangers and members", ok, &observed)?;
    story.apply(&mode("PERMISSIVE"))?;
    story.wait_mode(SERVER, Some("PERMISSIVE"))?;
    story.wait_mode(CLIENT, Some("PERMISSIVE"))?;
    Ok(())
}

fn describe(flow: &SeenFlow) -> String {
    format!("{} to {} {} port {}", flow.source, flow.destination, flow.protocol, flow.port)
}
