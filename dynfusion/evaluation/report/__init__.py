"""From finished groups to what a person reads: tables, sentences, figures, one page."""
