//! deploy/kubernetes, as kubectl renders it: no cluster is needed.
//!
//! `render.py` judges every object by the schemas of Kubernetes; here they are held against our own
//! table of addresses, list of settings, and programs.

mod network;
mod objects;
mod pods;
mod programs;
