"""A fleet on virtual time: the real deciding code, the model store, and faults on every edge."""
