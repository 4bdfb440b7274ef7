"""The report in other forms than pages to read: JSON for programs, LaTeX for papers, PDF for paper itself."""
