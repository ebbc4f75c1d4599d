//! What goes wrong, drawn from the seed, and how it heals.

use std::time::Duration;

use crate::directory::CONTROLLER;
use crate::net::Weather;
use crate::world::{Happening, World};

/// Something that ends by itself.
#[derive(Clone, Copy, Debug)]
pub enum Heal {
    /// The cable of a node is back.
    Cable(usize),
    Weather,
    Controller,
    Directory,
    Traitor(usize),
}

impl World {
    pub fn start_trouble(&mut self) {
        self.trouble = true;
        self.after(Duration::from_secs(1), Happening::Misfortune);
        self.after(Duration::from_secs(1), Happening::Eve);
    }

    /// One thing goes wrong; the next one follows soon.
    pub fn misfortune(&mut self) {
        let wait = self.dice.millis(200, 5_000);
        self.after(wait, Happening::Misfortune);
        let node = self.dice.below(self.nodes.len());
        let kind = self.dice.below(16);
        self.ledger.note(u64::try_from(kind).unwrap());
        match kind {
            0 | 1 => self.restart(node),
            2 => {
                if self.controller.is_there() {
                    self.go_down(CONTROLLER);
                    self.heal_in(1_000, 30_000, Heal::Controller);
                }
            }
            3 => self.skew(node),
            4 | 5 => {
                let percent = |dice: &mut crate::dice::Dice, most| u32::try_from(dice.below(most)).unwrap();
                let dice = &mut self.dice;
                let (loss, duplicates, late) = (percent(dice, 50), percent(dice, 50), percent(dice, 100));
                self.net.weather = Weather { loss, duplicates, late };
                self.heal_in(2_000, 30_000, Heal::Weather);
            }
            6 => {
                let ip = self.ip_of(node);
                self.net.cut.insert(ip);
                self.heal_in(1_000, 40_000, Heal::Cable(node));
            }
            7 => {
                self.directory.slowest = 4_000;
                self.heal_in(5_000, 20_000, Heal::Directory);
            }
            8 => self.birth(node, if node.is_multiple_of(2) { "shop" } else { "misc" }, None),
            9 => drop(self.some_death()),
            10 | 11 => {
                // PL-13: an address goes to another workload, mostly on another node, at once
                if let Some(dead) = self.some_death() {
                    let shared = dead.ips[0].to_string().starts_with("10.250.");
                    let to = if shared { node } else { dead.node };
                    self.birth(to, &dead.pod.namespace, Some(dead.ips));
                }
            }
            12 => {
                let misc = |which: &usize| self.workloads[*which].pod.namespace == "misc";
                let all: Vec<usize> = (0..self.workloads.len()).filter(misc).collect();
                if let Some(which) = self.dice.pick(&all).copied() {
                    let value = if self.dice.percent(50) { "enabled" } else { "disabled" };
                    self.label(which, value);
                }
            }
            13 => self.revoke(),
            14 => self.betray(node),
            _ => {
                // somebody puts an old slice into the directory again
                if let Some(old) = self.dice.pick(&self.history).cloned() {
                    self.whisper(node + 1, old);
                }
            }
        }
    }

    fn heal_in(&mut self, from: u64, to: u64, heal: Heal) {
        let wait = self.dice.millis(from, to);
        self.after(wait, Happening::Heal(heal));
    }

    /// The daemon dies, its kernel state and files stay, and it comes back.
    fn restart(&mut self, node: usize) {
        if self.nodes[node].daemon.is_some() {
            self.go_down(node + 1);
            let wait = self.dice.millis(50, 5_000);
            self.come_up(node + 1, wait);
        }
    }

    /// Clocks are up to four minutes wrong where keys live long enough for that (ID-20).
    fn skew(&mut self, node: usize) {
        let most = if self.period.as_secs() >= 600 { 240 } else { 15 };
        let off = i64::try_from(self.dice.below(2 * most + 1)).unwrap();
        self.nodes[node].skew = off - i64::try_from(most).unwrap();
    }

    fn some_death(&mut self) -> Option<crate::pods::Workload> {
        if self.workloads.len() < 5 {
            return None;
        }
        let which = self.dice.below(self.workloads.len());
        Some(self.death(which))
    }

    /// At most one identity is out at a time.
    fn revoke(&mut self) {
        let before = std::mem::take(&mut self.controller.revoked);
        if before.is_empty()
            && let Some(workload) = self.dice.pick(&self.workloads).cloned()
        {
            let identity = self.identity_of(&workload.pod);
            self.controller.revoked.insert(identity);
        }
    }

    fn betray(&mut self, node: usize) {
        let own = self.workloads.iter().find(|w| w.node == node && w.attached);
        let others: Vec<_> = self.workloads.iter().filter(|w| w.node != node && w.attached).cloned().collect();
        let Some(liar) = own.map(|own| self.identity_of(&own.pod)) else { return };
        let Some(victim) = self.dice.pick(&others) else { return };
        let ip = victim.ips[self.dice.below(2)];
        self.nodes[node].lie = Some((liar, ip));
        self.reconcile(node);
        self.heal_in(5_000, 20_000, Heal::Traitor(node));
    }

    pub fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Cable(node) => {
                let ip = self.ip_of(node);
                self.net.cut.remove(&ip);
            }
            Heal::Weather => self.net.weather = Weather::FAIR,
            Heal::Controller => self.come_up(CONTROLLER, Duration::ZERO),
            Heal::Directory => self.directory.slowest = 100,
            Heal::Traitor(node) => {
                self.nodes[node].lie = None;
                self.reconcile(node);
            }
        }
    }

    /// Everything that is broken heals at once, but clocks.
    pub fn end_trouble(&mut self) {
        self.trouble = false;
        for node in 0..self.nodes.len() {
            self.heal(Heal::Cable(node));
            self.heal(Heal::Traitor(node));
            if self.nodes[node].daemon.is_none() {
                self.go_down(node + 1);
                self.come_up(node + 1, Duration::ZERO);
            }
        }
        self.heal(Heal::Weather);
        self.heal(Heal::Directory);
        if !self.controller.is_there() {
            self.go_down(CONTROLLER);
            self.come_up(CONTROLLER, Duration::ZERO);
        }
    }
}
