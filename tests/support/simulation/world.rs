//! Tasks and timers on one thread: virtual time, one source of chance, participants that can be killed.
//!
//! Which of the tasks that are ready runs next is drawn from the seed; time passes only where none is ready. Must never
//! run a task of a participant that was killed, not even to its next await.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use gigastore_formats::ambient::{Ambient, Job, Task};

/// The wall clock at the start of every run, in milliseconds since 1970: some day of 2026.
const EPOCH_MS: u64 = 1_790_000_000_000;

/// Virtual time after which a run is stuck: faults end long before, and nothing waits longer than minutes.
const LIMIT: Duration = Duration::from_secs(2 * 3600);

/// Who a task belongs to. Each life of a participant is another owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owner(u64);

/// The owner of what belongs to no participant: the network, the director.
pub const NOBODY: Owner = Owner(0);

/// Chance: splitmix64 (Steele, Lea, Flood 2014), which needs no warming up and no second state.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Returns the chance of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws a number below `bound`, which is small against 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }
}

/// A made-up world. Clones are the same one.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Tasks to be polled; apart from the state, because wakers come at any time.
    ready: Mutex<BTreeSet<u64>>,
}

struct State {
    now: Duration,
    chance: Chance,
    tasks: BTreeMap<u64, (Owner, Option<Task<()>>)>,
    timers: BTreeMap<(Duration, u64), Waker>,
    living: BTreeSet<Owner>,
    /// Tasks of the dead, which are dropped once no task is running: a participant may die in one of its own, and what
    /// the rest of that one would learn of the others' end it must not act on.
    ended: Vec<Task<()>>,
    /// The last number given to a task, a timer or an owner.
    last: u64,
    trace: String,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Returns the world of a seed, with nothing in it.
    pub fn new(seed: u64) -> Self {
        let state = State {
            now: Duration::ZERO,
            chance: Chance::new(seed),
            tasks: BTreeMap::new(),
            timers: BTreeMap::new(),
            living: BTreeSet::from([NOBODY]),
            ended: Vec::new(),
            last: 0,
            trace: String::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), ready: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Returns the virtual time since the start.
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// Returns the wall clock, in milliseconds since 1970.
    pub fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.now().as_millis() as u64
    }

    /// Draws a number below `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.state().chance.below(bound)
    }

    /// Draws a time of at most `most`.
    pub fn some_time(&self, most: Duration) -> Duration {
        Duration::from_micros(self.below(most.as_micros() as u64 + 1))
    }

    /// Writes a line down.
    pub fn note(&self, line: fmt::Arguments<'_>) {
        let mut state = self.state();
        let now = state.now.as_micros();
        // Writing to a string does not fail.
        let _ = writeln!(state.trace, "{now} {line}");
    }

    /// Returns all that was written down.
    pub fn trace(&self) -> String {
        self.state().trace.clone()
    }

    /// Returns a new owner, alive.
    pub fn born(&self) -> Owner {
        let mut state = self.state();
        state.last += 1;
        let owner = Owner(state.last);
        state.living.insert(owner);
        owner
    }

    /// Tells whether an owner lives.
    pub fn is_alive(&self, owner: Owner) -> bool {
        self.state().living.contains(&owner)
    }

    /// Ends a participant: none of its tasks goes on. What it sent is on its way.
    pub fn kill(&self, owner: Owner) {
        let mut state = self.state();
        let State { living, tasks, ended, .. } = &mut *state;
        living.remove(&owner);
        // The task that is running has been taken out; it is dropped when it comes back.
        ended.extend(tasks.values_mut().filter(|(of, _)| *of == owner).filter_map(|(_, task)| task.take()));
        tasks.retain(|_, (of, _)| *of != owner);
    }

    /// Starts a task; none where its owner is dead.
    pub fn spawn(&self, owner: Owner, task: impl Future<Output = ()> + Send + 'static) {
        let id = {
            let mut state = self.state();
            if !state.living.contains(&owner) {
                return;
            }
            state.last += 1;
            let id = state.last;
            state.tasks.insert(id, (owner, Some(Box::pin(task))));
            id
        };
        lock(&self.0.ready).insert(id);
    }

    /// Waits.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        Sleep { world: self.clone(), until: self.now() + time, timer: None }
    }

    /// Drops all that is left in it: tasks hold the world, and the world its tasks.
    pub fn end(&self) {
        let mut state = self.state();
        state.living.clear();
        let left =
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.timers), std::mem::take(&mut state.ended));
        drop(state);
        drop(left);
    }

    /// Returns the ambient of an owner.
    pub fn ambient(&self, owner: Owner) -> Arc<dyn Ambient> {
        Arc::new(SimAmbient { world: self.clone(), owner })
    }

    /// Runs until `done`; says what went wrong where it never comes.
    pub fn run_until(&self, done: impl Fn() -> bool) -> Result<(), Stuck> {
        while !done() {
            if self.run_one() {
                continue;
            }
            let mut state = self.state();
            let Some(((at, _), waker)) = state.timers.pop_first() else {
                return Err(Stuck::Deadlock { at: state.now, tasks: state.tasks.len() });
            };
            if at > LIMIT {
                return Err(Stuck::NoEnd { after: LIMIT });
            }
            state.now = state.now.max(at);
            drop(state);
            waker.wake();
        }
        Ok(())
    }

    /// Polls one of the tasks that are ready, if there is any.
    fn run_one(&self) -> bool {
        let id = {
            let mut ready = lock(&self.0.ready);
            if ready.is_empty() {
                return false;
            }
            let drawn = self.state().chance.below(ready.len() as u64) as usize;
            let id = ready.iter().nth(drawn).copied().expect("drawn below their number");
            ready.remove(&id);
            id
        };
        let taken = self.state().tasks.get_mut(&id).and_then(|(_, task)| task.take());
        // A task that has ended may still be woken.
        let Some(mut task) = taken else { return true };
        let waker = Waker::from(Arc::new(TaskWaker { id, world: Arc::clone(&self.0) }));
        let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
        let mut state = self.state();
        let ended = std::mem::take(&mut state.ended);
        match (polled, state.tasks.get_mut(&id)) {
            (Poll::Pending, Some((_, slot))) => {
                *slot = Some(task);
                drop(state);
            }
            _ => {
                state.tasks.remove(&id);
                drop(state);
                drop(task);
            }
        }
        // Destructors may wake, and ask for things that the dead do not get.
        drop(ended);
        true
    }
}

/// Why a run does not end.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// All wait for each other.
    #[error("after {at:?} nothing is ready and no timer is set, with {tasks} tasks left")]
    Deadlock {
        /// When.
        at: Duration,
        /// How many tasks wait.
        tasks: usize,
    },
    /// Something is tried for ever.
    #[error("no end after {after:?}")]
    NoEnd {
        /// How long.
        after: Duration,
    },
}

struct TaskWaker {
    id: u64,
    world: Arc<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        lock(&self.world.ready).insert(self.id);
    }
}

struct Sleep {
    world: World,
    until: Duration,
    timer: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let world = self.world.clone();
        let mut state = world.state();
        if let Some(timer) = self.timer.take() {
            state.timers.remove(&(self.until, timer));
        }
        if state.now >= self.until {
            return Poll::Ready(());
        }
        state.last += 1;
        let timer = state.last;
        state.timers.insert((self.until, timer), context.waker().clone());
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            let waker = self.world.state().timers.remove(&(self.until, timer));
            drop(waker);
        }
    }
}

/// What a participant has of time, chance and threads.
#[derive(Debug)]
struct SimAmbient {
    world: World,
    owner: Owner,
}

impl Ambient for SimAmbient {
    fn wall_ms(&self) -> u64 {
        self.world.wall_ms()
    }

    fn monotonic(&self) -> Duration {
        self.world.now()
    }

    fn random(&self) -> u64 {
        self.world.state().chance.draw()
    }

    fn sleep(&self, time: Duration) -> Task<()> {
        Box::pin(self.world.sleep(time))
    }

    fn spawn(&self, task: Task<()>) {
        self.world.spawn(self.owner, task);
    }

    /// A task of its own: computations of one participant end in any order, as on threads.
    fn compute(&self, job: Job) {
        self.world.spawn(self.owner, async move { job() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(seed: u64) -> String {
        let world = World::new(seed);
        for who in ["a", "b", "c"] {
            let (owner, on) = (world.born(), world.clone());
            world.spawn(owner, async move {
                for _ in 0..3 {
                    on.sleep(on.some_time(Duration::from_secs(3))).await;
                    on.note(format_args!("{who}"));
                }
            });
        }
        let watched = world.clone();
        world.run_until(|| watched.trace().lines().count() == 9).unwrap();
        world.trace()
    }

    #[test]
    fn a_seed_gives_one_run_and_another_seed_another() {
        assert_eq!(noted(7), noted(7));
        assert_ne!(noted(7), noted(8));
    }

    #[test]
    fn the_dead_do_nothing_and_who_waits_for_nothing_is_found_out() {
        let world = World::new(1);
        let (owner, on) = (world.born(), world.clone());
        world.spawn(owner, async move {
            on.sleep(Duration::from_secs(1)).await;
            on.note(format_args!("never"));
        });
        world.run_until(|| world.now() == Duration::ZERO).unwrap();
        world.kill(owner);
        world.ambient(owner).spawn(Box::pin(async { panic!("the dead start nothing") }));
        assert!(matches!(world.run_until(|| false), Err(Stuck::Deadlock { tasks: 0, .. })));
        assert_eq!(world.trace(), "");
    }
}
