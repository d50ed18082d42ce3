"use strict";
(() => {
  const canvas = document.getElementById("map");
  if (!canvas) return;
  const values = JSON.parse(document.getElementById("map-values").textContent);
  const tip = document.getElementById("map-tip"), picture = tip.querySelector("i"), text = tip.querySelector("span");
  const sheet = document.getElementById("map-sheet").src, choice = document.getElementById("map-class");
  const side = values.side, across = values.across, edge = 14, context = canvas.getContext("2d");
  const colour = (label) => label < 0 ? "#8a8a8a" : `hsl(${(label * 137.508) % 360} 70% 52%)`;
  const at = (point) => [edge + point[0] * (canvas.width - 2 * edge), edge + point[1] * (canvas.height - 2 * edge)];
  const shown = (i) => choice.value === "-2" || values.labels[i] === Number(choice.value);
  picture.style.backgroundImage = `url(${sheet})`;
  picture.style.backgroundSize = `${across * 80}px auto`;
  function draw(marked) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    let count = 0;
    values.points.forEach((point, i) => {
      if (!shown(i)) return;
      count += 1;
      const [x, y] = at(point);
      context.beginPath();
      context.arc(x, y, i === marked ? 8 : 4.5, 0, 2 * Math.PI);
      context.fillStyle = colour(values.labels[i]);
      context.fill();
    });
    document.getElementById("map-count").textContent = `${count} images`;
  }
  function nearest(event) {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = -1, least = 30 * 30;
    values.points.forEach((point, i) => {
      const [px, py] = at(point), distance = (px - x) ** 2 + (py - y) ** 2;
      if (shown(i) && distance < least) [best, least] = [i, distance];
    });
    return best;
  }
  function show(event) {
    const i = nearest(event);
    tip.hidden = i < 0;
    draw(i);
    if (i < 0) return;
    const [x, y] = at(values.points[i]), scale = canvas.getBoundingClientRect().width / canvas.width;
    picture.style.backgroundPosition = `-${(i % across) * 80}px -${Math.floor(i / across) * 80}px`;
    text.textContent = values.labels[i] < 0 ? "" : values.classes[values.labels[i]];
    tip.style.left = `${Math.min(x * scale + 10, canvas.getBoundingClientRect().width - 100)}px`;
    tip.style.top = `${y * scale + 10}px`;
  }
  canvas.addEventListener("pointermove", show);
  canvas.addEventListener("pointerdown", show);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; draw(-1); });
  choice.addEventListener("change", () => draw(-1));
  draw(-1);
})();
