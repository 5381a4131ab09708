//! Nothing one face can do that the other cannot: what only REST did, or did otherwise.

pub(crate) mod authorities;
mod history;
mod keys;
mod refusals;
mod workspaces;
