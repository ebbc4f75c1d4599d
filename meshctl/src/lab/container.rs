//! A container of a lab pod is a process on the host's file system: what is run, with which environment, as whom.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::bail;

use super::facts::Facts;
use super::pod_spec::{Container, EnvVar, PodSpec};

/// What a container may ask about its pod.
pub(super) struct Surroundings<'a> {
    /// The lab.
    pub(super) facts: &'a Facts,
    /// The pod.
    pub(super) pod: &'a PodSpec,
    /// Its UID.
    pub(super) uid: &'a str,
    /// Its node.
    pub(super) node: &'a str,
    /// Its addresses.
    pub(super) addresses: &'a [String],
}

/// The command that runs a container: its own, or the echo server.
///
/// # Errors
/// The container asks for something that a lab does not have.
pub(super) fn command(around: &Surroundings<'_>, container: &Container) -> anyhow::Result<Command> {
    let mut words = container.command.iter().chain(&container.args);
    let mut command = match (container.command.is_empty(), words.next()) {
        (false, Some(program)) => {
            let mut command = Command::new(program);
            command.args(words);
            command
        }
        _ => echo(around.facts, container),
    };
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/root")
        .env("HOSTNAME", &around.pod.key.1)
        .current_dir(container.working_dir.as_deref().unwrap_or("/"));
    for variable in &container.env {
        command.env(&variable.name, value(around, variable)?);
    }
    let pod_wide = &around.pod.spec.security_context;
    let user = container.security_context.run_as_user.or(pod_wide.run_as_user);
    if let Some(user) = user {
        let group = container.security_context.run_as_group.or(pod_wide.run_as_group);
        command.uid(user).gid(group.unwrap_or(user));
    }
    Ok(command)
}

/// The built-in echo server on the container's ports: 8080 where it names none, and port 7 always.
fn echo(facts: &Facts, container: &Container) -> Command {
    let mut command = Command::new(&facts.programs.meshctl);
    command.args(["lab", "echo"]);
    command.args(container.ports.iter().map(|p| p.container_port.to_string()));
    command
}

fn value(around: &Surroundings<'_>, variable: &EnvVar) -> anyhow::Result<String> {
    let Some(from) = &variable.value_from else { return Ok(variable.value.clone()) };
    let path = from.field_ref.as_ref().map(|f| f.field_path.as_str());
    Ok(match path {
        Some("metadata.name") => around.pod.key.1.clone(),
        Some("metadata.namespace") => around.pod.key.0.clone(),
        Some("metadata.uid") => around.uid.to_owned(),
        Some("spec.nodeName") => around.node.to_owned(),
        Some("spec.serviceAccountName") => around.pod.spec.service_account_name.clone(),
        Some("status.podIP") => around.addresses.first().cloned().unwrap_or_default(),
        Some("status.podIPs") => around.addresses.join(","),
        _ => bail!(
            "env {}: a lab knows `value`, and `fieldRef` to metadata.{{name,namespace,uid}}, spec.{{nodeName,\
             serviceAccountName}}, status.{{podIP,podIPs}}",
            variable.name
        ),
    })
}
