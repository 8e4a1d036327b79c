//! An agent that answers from a list.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex},
};

/// Answers each request target with what was last set for it, one connection at a time.
#[derive(Clone)]
pub(crate) struct FakeAgent {
    answers: Arc<Mutex<Vec<(String, u16, String)>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeAgent {
    pub(crate) fn listen(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let agent = Self { answers: Arc::default(), asked: Arc::default() };
        let served = agent.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                served.answer(stream.unwrap());
            }
        });
        agent
    }

    pub(crate) fn set(&self, target: &str, status: u16, body: &str) {
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(known, ..)| known != target);
        answers.push((target.to_owned(), status, body.to_owned()));
    }

    /// Targets asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, mut stream: UnixStream) {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            request.push(byte[0]);
        }
        let request = String::from_utf8(request).unwrap();
        let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
        self.asked.lock().unwrap().push(target.clone());
        let known = self.answers.lock().unwrap().iter().find(|(known, ..)| *known == target).cloned();
        let (_, status, body) = known.unwrap_or_else(|| (target, 404, "{}".to_owned()));
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        // The client may have gone.
        let _ = stream.write_all((head + &body).as_bytes());
    }
}
