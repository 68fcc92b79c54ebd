"""The notebook's side of llmlab: results, frames, pictures. The only room that knows pandas, matplotlib and IPython."""
