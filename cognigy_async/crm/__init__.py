"""Keep a CRM in step: a durable outbox and its targets."""
