"""A user's own code as a job: the platform's side, and what runs in the code's own process."""
