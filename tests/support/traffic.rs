//! Constant traffic on a server: clients that ask without end, by GET and POST, on connections that they keep and on new ones.
//!
//! Of each request they remember when it was, and which release answered. A request is lost if no answer with status 200 comes. An answer
//! is wrong if it is not the one that is expected at that time; while the traffic moves, both releases are right.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The longest time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How many requests, in how many ways.
#[derive(Clone, Copy)]
pub struct TrafficRate {
    /// The clients of each kind; there are four kinds.
    pub clients: usize,
    /// The pause of a client between two requests.
    pub pause: Duration,
}

/// Traffic, until it is stopped.
pub struct ConstantTraffic {
    began: Instant,
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<SentRequest>>>,
    first: String,
    moves: Vec<TrafficMove>,
}

/// A time in which the traffic moved, after which this is the answer.
struct TrafficMove {
    begun: Duration,
    done: Duration,
    answer: String,
}

struct SentRequest {
    begun: Duration,
    done: Duration,
    answer: Result<Arc<str>, String>,
}

/// What became of all requests.
#[derive(Debug)]
pub struct TrafficReport {
    /// How many there were.
    pub requests: usize,
    /// Why no answer came, each with the time.
    pub lost: Vec<String>,
    /// Answers of another release than the expected one, each with the time.
    pub wrong: Vec<String>,
    /// How long the answers took, sorted.
    pub times: Vec<Duration>,
    /// The same of requests while the traffic moved.
    pub times_in_moves: Vec<Duration>,
}

#[derive(Clone, Copy)]
struct RequestKind {
    method: &'static str,
    keeps_alive: bool,
}

impl ConstantTraffic {
    /// Begins to ask. `answer` is what is expected at first.
    pub fn start(address: &str, rate: TrafficRate, answer: &str) -> Self {
        let (began, is_over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let mut clients = Vec::new();
        for (method, keeps_alive) in [("GET", true), ("POST", true), ("GET", false), ("POST", false)] {
            for _ in 0..rate.clients {
                let client = TrafficClient::new(address, RequestKind { method, keeps_alive });
                let is_over = Arc::clone(&is_over);
                clients.push(thread::spawn(move || client.ask_until(&is_over, began, rate.pause)));
            }
        }
        Self { began, is_over, clients, first: answer.to_owned(), moves: Vec::new() }
    }

    /// Moves the traffic, after which `answer` is expected of each request that begins.
    pub fn move_to<T>(&mut self, answer: &str, work: impl FnOnce() -> T) -> T {
        let begun = self.began.elapsed();
        let result = work();
        self.moves.push(TrafficMove { begun, done: self.began.elapsed(), answer: answer.to_owned() });
        result
    }

    /// Stops the clients.
    pub fn stop(self) -> TrafficReport {
        let Self { is_over, clients, first, moves, .. } = self;
        is_over.store(true, Ordering::Relaxed);
        let requests: Vec<SentRequest> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let mut report = TrafficReport {
            requests: requests.len(),
            lost: Vec::new(),
            wrong: Vec::new(),
            times: Vec::new(),
            times_in_moves: Vec::new(),
        };
        for request in requests {
            report.add(&request, &first, &moves);
        }
        report.times.sort_unstable();
        report.times_in_moves.sort_unstable();
        report
    }
}

impl TrafficReport {
    fn add(&mut self, request: &SentRequest, first: &str, moves: &[TrafficMove]) {
        let at = request.begun.as_secs_f64();
        let answer = match &request.answer {
            Ok(answer) => answer.as_ref(),
            Err(why) => return self.lost.push(format!("{at:.3} s: {why}")),
        };
        // The moves that were over when it began, and those that had begun when it was answered.
        let over = moves.partition_point(|moved| moved.done < request.begun);
        let begun = moves.partition_point(|moved| moved.begun <= request.done);
        let expected = over.checked_sub(1).map_or(first, |last| moves[last].answer.as_str());
        let is_right = answer == expected || moves[over..begun].iter().any(|moved| moved.answer == answer);
        if !is_right {
            self.wrong.push(format!("{at:.3} s: {answer:?} instead of {expected:?}"));
        }
        let took = request.done.saturating_sub(request.begun);
        self.times.push(took);
        if begun > over {
            self.times_in_moves.push(took);
        }
    }

    /// Fails unless each request was answered, by the expected release.
    #[track_caller]
    pub fn assert_complete(&self, requests: usize) {
        let Self { lost, wrong, .. } = self;
        let shown = |found: &[String]| found.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
        assert!(lost.is_empty(), "{} of {} requests were lost:\n{}", lost.len(), self.requests, shown(lost));
        assert!(wrong.is_empty(), "{} of {} answers are wrong:\n{}", wrong.len(), self.requests, shown(wrong));
        assert!(self.requests >= requests, "only {} requests, {requests} were expected", self.requests);
    }
}

struct TrafficClient {
    address: String,
    kind: RequestKind,
    request: String,
    connection: Option<BufReader<TcpStream>>,
    last: Arc<str>,
}

impl TrafficClient {
    fn new(address: &str, kind: RequestKind) -> Self {
        let close = if kind.keeps_alive { "" } else { "connection: close\r\n" };
        let body = if kind.method == "POST" { "content-length: 1\r\n\r\nx" } else { "\r\n" };
        let request = format!("{} / HTTP/1.1\r\nhost: shop\r\n{close}{body}", kind.method);
        Self { address: address.to_owned(), kind, request, connection: None, last: "".into() }
    }

    fn ask_until(mut self, is_over: &AtomicBool, began: Instant, pause: Duration) -> Vec<SentRequest> {
        let mut requests = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let begun = began.elapsed();
            let answer = self.ask().map_err(|why| format!("{} {}: {why}", self.kind.method, self.connection_name()));
            if answer.is_err() {
                self.connection = None;
            }
            requests.push(SentRequest { begun, done: began.elapsed(), answer });
            // No condition is waited for: traffic has pauses.
            thread::sleep(pause);
        }
        requests
    }

    fn connection_name(&self) -> &'static str {
        if self.kind.keeps_alive { "on a kept connection" } else { "on a new connection" }
    }

    fn ask(&mut self) -> Result<Arc<str>, String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(&self.address).map_err(|error| format!("connect: {error}"))?;
                stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
                BufReader::new(stream)
            }
        };
        connection.get_mut().write_all(self.request.as_bytes()).map_err(|error| format!("send: {error}"))?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if connection.read_line(&mut head).map_err(|error| format!("receive: {error}"))? == 0 {
                return Err(format!("the connection ended after {head:?}"));
            }
        }
        let header = |name: &str| {
            let lower = head.to_ascii_lowercase();
            lower.lines().find_map(|line| line.strip_prefix(name).map(|value| value.trim().to_owned()))
        };
        let length =
            header("content-length:").and_then(|text| text.parse().ok()).ok_or("an answer without a length")?;
        let mut body = vec![0; length];
        connection.read_exact(&mut body).map_err(|error| format!("receive: {error}"))?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(head.lines().next().unwrap_or_default().to_owned());
        }
        // nginx says after 1,000 requests that it closes a connection.
        let is_last = header("connection:").is_some_and(|value| value == "close");
        self.connection = (self.kind.keeps_alive && !is_last).then_some(connection);
        let body = String::from_utf8_lossy(&body);
        if *self.last != *body.trim() {
            self.last = body.trim().into();
        }
        Ok(Arc::clone(&self.last))
    }
}
