"""One file per benchmark: it reads prompts or pictures and scores them."""
