//! What the agent does about each thing that can go wrong between it and the API server.
