"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { x, y, row, prob, tomo, tomos, groups, palettes, turn, range } = data;
  const $ = id => document.getElementById(id);
  const canvas = $("map"), pen = canvas.getContext("2d"), tip = $("tip"), ring = $("ring"), legend = $("legend");
  const grey = "#8d97a4", dark = matchMedia("(prefers-color-scheme: dark)");
  const radius = Math.min(4.5, Math.max(1.8, 260 / Math.sqrt(x.length || 1)));
  let mode = 0, hidden = new Set(), width = 0, height = 0, hovered = -1;

  const shapes = [  // the same as style.MARKERS
    (c, r) => c.arc(0, 0, r, 0, 2 * Math.PI),
    (c, r) => c.rect(-r * .9, -r * .9, r * 1.8, r * 1.8),
    (c, r) => polygon(c, [[0, -r * 1.2], [r * 1.1, r * .9], [-r * 1.1, r * .9]]),
    (c, r) => polygon(c, [[0, -r * 1.25], [r * 1.25, 0], [0, r * 1.25], [-r * 1.25, 0]]),
    (c, r) => polygon(c, [[0, r * 1.2], [r * 1.1, -r * .9], [-r * 1.1, -r * .9]]),
    (c, r) => { c.rect(-r * 1.2, -r * .45, r * 2.4, r * .9); c.rect(-r * .45, -r * 1.2, r * .9, r * 2.4); },
  ];
  function polygon(c, corners) {
    corners.forEach(([a, b], i) => i ? c.lineTo(a, b) : c.moveTo(a, b));
    c.closePath();
  }
  function colour(g) {
    const palette = palettes[dark.matches ? "dark" : "light"];
    return g < 0 ? grey : palette[g % palette.length];
  }
  const shape = g => shapes[g < 0 ? 0 : Math.floor(g / turn) % shapes.length];
  const margin = 14;
  const unit = () => Math.min((width - 2 * margin) / data.aspect, height - 2 * margin);
  const px = i => width / 2 + (x[i] / range - .5) * unit() * data.aspect;
  const py = i => height / 2 - (y[i] / range - .5) * unit();

  function dot(c, i, r) {
    const g = groups[mode].index[i];
    c.save();
    c.translate(px(i), py(i));
    c.fillStyle = colour(g);
    c.beginPath();
    shape(g)(c, r);
    c.fill();
    c.restore();
  }

  function draw() {
    const ratio = devicePixelRatio || 1, index = groups[mode].index;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    for (const unlabelled of [true, false]) {
      pen.globalAlpha = unlabelled ? .45 : .85;
      for (let i = 0; i < x.length; i++)
        if (index[i] < 0 === unlabelled && !hidden.has(index[i])) dot(pen, i, radius);
    }
  }

  function resize() {
    const ratio = devicePixelRatio || 1;
    width = canvas.parentElement.clientWidth;
    height = Math.round(Math.min(width / data.aspect, Math.max(320, innerHeight * .8)));
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = height + "px";
    draw();
  }

  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    const mx = event.clientX - box.left, my = event.clientY - box.top;
    let best = -1, least = 12 * 12;
    for (let i = 0; i < x.length; i++) {
      if (hidden.has(groups[mode].index[i])) continue;
      const d = (px(i) - mx) ** 2 + (py(i) - my) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }

  function describe(i) {
    const lines = ["particle " + row[i]];
    if (tomos[tomo[i]]) lines.push("tomogram " + tomos[tomo[i]]);
    for (const g of groups) lines.push(g.title + ": " + (g.index[i] < 0 ? "none" : g.names[g.index[i]]));
    if (prob) lines.push("probability " + (prob[i] === null ? "unknown" : prob[i].toFixed(3)));
    return lines.join("\n");
  }

  function point(i) {
    hovered = i;
    tip.hidden = ring.hidden = i < 0;
    if (i < 0) return;
    tip.textContent = describe(i);
    const right = px(i) > width / 2;
    tip.style.left = right ? "auto" : px(i) + 14 + "px";
    tip.style.right = right ? width - px(i) + 14 + "px" : "auto";
    tip.style.top = Math.max(0, Math.min(py(i) - 20, height - tip.offsetHeight)) + "px";
    ring.style.left = px(i) + "px";
    ring.style.top = py(i) + "px";
  }

  function hover(event) {
    const i = nearest(event);
    if (i !== hovered) point(i);
  }

  function swatch(g) {
    const small = document.createElement("canvas");
    small.width = small.height = 28;
    const c = small.getContext("2d");
    c.translate(14, 14);
    c.fillStyle = colour(g);
    shape(g)(c, 9);
    c.fill();
    return small;
  }

  function entry(g, name, count) {
    const label = document.createElement("label"), box = document.createElement("input");
    const text = document.createElement("span"), number = document.createElement("span");
    box.type = "checkbox";
    box.checked = true;
    box.onchange = () => { box.checked ? hidden.delete(g) : hidden.add(g); draw(); };
    text.textContent = name;
    text.className = "name";
    number.textContent = count.toLocaleString("en");
    number.className = "number";
    label.append(box, swatch(g), text, number);
    legend.append(label);
  }

  function show(which) {
    mode = which;
    hidden = new Set();
    const group = groups[mode], counts = new Array(group.names.length + 1).fill(0);
    for (const g of group.index) counts[g + 1]++;
    const title = document.createElement("legend");
    title.textContent = group.title;
    legend.replaceChildren(title);
    point(-1);
    group.names.forEach((name, g) => entry(g, name, counts[g + 1]));
    if (counts[0]) entry(-1, "none", counts[0]);
    draw();
  }

  groups.forEach((group, which) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "radio";
    box.name = "mode";
    box.checked = which === 0;
    box.onchange = () => show(which);
    label.append(box, group.title);
    $("modes").append(label);
  });
  $("controls").hidden = groups.length < 2;
  $("field").hidden = false;
  canvas.onpointermove = canvas.onpointerdown = hover;
  canvas.onpointerleave = () => point(-1);
  addEventListener("resize", resize);
  dark.onchange = () => show(mode);
  show(0);
  resize();
})();
