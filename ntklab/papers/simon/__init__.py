"""Simon, Dickens, Karkada & DeWeese 2023, "The Eigenlearning Framework"."""
