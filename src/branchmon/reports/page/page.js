(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function paint() {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    const soft = style.getPropertyValue("--soft").trim();
    const line = style.getPropertyValue("--line").trim();
    for (const root of Bokeh.documents.flatMap((doc) => doc.roots())) {
      for (const model of root.references()) {
        if (model.type.endsWith("Axis")) {
          model.setv({
            axis_label_text_color: soft, major_label_text_color: soft, axis_line_color: line,
            major_tick_line_color: line, minor_tick_line_color: null,
          });
        } else if (model.type === "Grid" && model.grid_line_color !== null) {
          model.setv({ grid_line_color: line });
        } else if (model.type === "Legend") {
          model.setv({ label_text_color: ink });
        } else if (model.type === "Title") {
          model.setv({ text_color: ink });
        }
      }
    }
    document.body.dataset.painted = dark.matches ? "dark" : "light";
  }

  function start() {
    if (window.Bokeh === undefined || Bokeh.documents.length === 0) {
      if (document.querySelector(".chart") !== null) setTimeout(start, 30);
      return;
    }
    paint();
    dark.addEventListener("change", paint);
  }
  start();
})();
