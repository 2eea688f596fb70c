"""From an audit's result to something a person can read: figures and the PDF. Nothing here computes a finding."""
