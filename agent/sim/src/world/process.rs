//! The loop around a node's machines: what is due is told to them, what they want is begun, and the process sleeps until the next.

use std::time::Duration;

use mesh_core::agent::Input;

use super::{Event, World};

impl World {
    /// The process starts, if none runs.
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_none() {
            let Self { scenario, nodes, now, .. } = self;
            nodes[node].start(&scenario.world, scenario.seed, *now);
            self.note_path_event();
            self.note_informed();
            self.advance(node);
        }
    }

    /// The process is killed.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].end();
        self.gateway.close_all(node, self.now);
        self.schedule_streams();
        self.note_path_event();
        self.note_informed();
    }

    /// One fact for the agent.
    pub(super) fn feed(&mut self, node: usize, input: Input) {
        let now = self.now;
        let Some((process, clock)) = self.nodes[node].running(now) else { return };
        process.agent.handle(input, clock);
        self.advance(node);
    }

    /// The time has come for which the process wanted to be woken.
    pub(super) fn wake(&mut self, node: usize, generation: u64) {
        let now = self.now;
        if self.nodes[node].generation != generation {
            return;
        }
        let Some((process, clock)) = self.nodes[node].running(now) else { return };
        if process.wakes_at != Some(now) {
            return;
        }
        process.wakes_at = None;
        if process.agent.poll_timeout().is_some_and(|(at, _)| at <= clock.since_start) {
            process.agent.handle(Input::Timeout, clock);
        }
        process.device.handle_timeout(now);
        if process.paths.poll_timeout().is_some_and(|at| at <= clock.since_start) {
            process.paths.handle(mesh_paths::Input::Timeout, clock.since_start);
        }
        self.advance(node);
    }

    /// Does everything that the machines want now, and sets the alarm for the next time.
    pub(super) fn advance(&mut self, node: usize) {
        loop {
            while let Some(command) = self.nodes[node].process.as_mut().and_then(|process| process.agent.poll_command())
            {
                self.start_command(node, command);
            }
            if !self.advance_paths(node) {
                break;
            }
        }
        let now = self.now;
        let (generation, wake) = match self.nodes[node].running(now) {
            Some((process, _)) => {
                let due = process.due().map(|at| at.max(now));
                let is_earlier = due.is_some_and(|due| process.wakes_at.is_none_or(|at| due < at));
                if is_earlier {
                    process.wakes_at = due;
                }
                (self.nodes[node].generation, due.filter(|_| is_earlier))
            }
            None => return,
        };
        if let Some(at) = wake {
            self.events.add(at, Event::Wake(node, generation));
        }
    }
}

impl crate::node::Process {
    /// When something is due by itself, in the time of the world.
    fn due(&self) -> Option<Duration> {
        let agent = self.agent.poll_timeout().map(|(at, _)| self.started + at);
        let paths = self.paths.poll_timeout().map(|at| self.started + at);
        agent.into_iter().chain(paths).chain(self.device.poll_timeout()).min()
    }
}
