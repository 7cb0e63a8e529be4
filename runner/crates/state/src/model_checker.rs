//! Explores every state that a model can reach, breadth first, so that the first counter-example is a shortest one.
//!
//! Deliberately absent: any reduction. The bounds of a model keep it small.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Debug,
    hash::{Hash, Hasher},
};

/// A protocol with its bounds.
pub(crate) trait Model {
    type State: Clone + Hash;
    type Action: Clone + Debug;

    fn initial_state(&self) -> Self::State;

    /// Adds everything that can happen next.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);

    /// The state after an action, or the property that the action breaks.
    fn next_state(&self, state: &Self::State, action: &Self::Action) -> Result<Self::State, String>;

    /// Checks what must hold in each state.
    fn check(&self, state: &Self::State) -> Result<(), String>;
}

/// What was explored.
#[derive(Debug)]
pub(crate) struct Exploration<A> {
    pub(crate) states: usize,
    pub(crate) transitions: usize,
    pub(crate) counter_example: Option<CounterExample<A>>,
}

/// A broken property, and the shortest way to it.
#[derive(Debug)]
pub(crate) struct CounterExample<A> {
    pub(crate) broken: String,
    pub(crate) actions: Vec<A>,
}

/// Explores all states, up to the first that breaks a property.
pub(crate) fn explore<M: Model>(model: &M) -> Exploration<M::Action> {
    let mut search = Search::<M> { model, seen: HashMap::new(), steps: Vec::new(), queue: VecDeque::new() };
    let mut transitions = 0;
    let mut broken = search.visit(model.initial_state(), None, 0).err();
    let mut actions = Vec::new();
    while broken.is_none()
        && let Some((state, id, level)) = search.queue.pop_front()
    {
        actions.clear();
        model.actions(&state, &mut actions);
        for action in &actions {
            transitions += 1;
            let step = Some((id, action.clone()));
            let visited = match model.next_state(&state, action) {
                Ok(next) => search.visit(next, step, level + 1),
                Err(why) => Err((why, step)),
            };
            if let Err(found) = visited {
                broken = Some(found);
                break;
            }
        }
    }
    let counter_example = broken.map(|(broken, last)| CounterExample { broken, actions: search.way_to(last) });
    Exploration { states: search.seen.len(), transitions, counter_example }
}

impl<A: Debug> Exploration<A> {
    /// Checks that nothing is broken, and that docs/lock.md has these bounds with the numbers of states and transitions.
    #[track_caller]
    pub(crate) fn assert_documented(&self, model: &str, bounds: &str) {
        assert!(self.counter_example.is_none(), "{:#?}", self.counter_example);
        let row = format!("| {model} | {bounds} | {} | {} |", grouped(self.states), grouped(self.transitions));
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/lock.md");
        let document = std::fs::read_to_string(document).expect("docs/lock.md can be read");
        assert!(document.contains(&row), "docs/lock.md does not have the row\n{row}");
    }
}

/// A number with its thousands apart.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).expect("digits"));
    groups.collect::<Vec<_>>().join(",")
}

/// A number of things, such as `2 kills`.
pub(crate) fn counted(number: impl Into<usize>, thing: &str) -> String {
    let number = number.into();
    let plural = match thing.strip_suffix("ss") {
        _ if number == 1 => "",
        Some(_) => "es",
        None => "s",
    };
    format!("{number} {thing}{plural}")
}

/// Whether PAWL_POINTS asks for wide bounds, which take minutes.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
pub(crate) fn wants_wide_bounds() -> bool {
    std::env::var("PAWL_POINTS").is_ok_and(|points| points == "all")
}

/// The state before, and what happened then.
type Step<A> = Option<(usize, A)>;

struct Search<'m, M: Model> {
    model: &'m M,
    /// The number of each state, by its hash.
    seen: HashMap<[u8; 16], usize>,
    steps: Vec<Step<M::Action>>,
    /// States to go on from, with their numbers and distances.
    queue: VecDeque<(M::State, usize, usize)>,
}

impl<M: Model> Search<'_, M> {
    fn visit(&mut self, state: M::State, step: Step<M::Action>, level: usize) -> Result<(), (String, Step<M::Action>)> {
        let id = self.steps.len();
        if *self.seen.entry(hash_of(&state)).or_insert(id) != id {
            return Ok(());
        }
        self.model.check(&state).map_err(|why| (why, step.clone()))?;
        self.steps.push(step);
        self.queue.push_back((state, id, level));
        Ok(())
    }

    fn way_to(&self, mut step: Step<M::Action>) -> Vec<M::Action> {
        let mut actions = Vec::new();
        while let Some((before, action)) = step {
            actions.push(action);
            step = self.steps[before].clone();
        }
        actions.reverse();
        actions
    }
}

/// 128 bits of a cryptographic hash: no two states of a model have the same.
fn hash_of(state: &impl Hash) -> [u8; 16] {
    struct Collector(Vec<u8>);
    impl Hasher for Collector {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        fn finish(&self) -> u64 {
            unreachable!("only the bytes are used")
        }
    }
    let mut collector = Collector(Vec::with_capacity(512));
    state.hash(&mut collector);
    let hash = blake3::hash(&collector.0);
    hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes")
}
