/* Saves a chart as it is seen. Its SVG names the page's colours; a picture needs their values. */
function saveChartAsPng(id, title) {
  const drawn = document.querySelector(`#${id} svg`);
  if (!drawn) return;
  const copy = drawn.cloneNode(true);
  const originals = drawn.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, index) => {
    const seen = getComputedStyle(originals[index]);
    for (const property of ["fill", "stroke"]) {
      if ((element.getAttribute(property) || "").includes("var(")) {
        element.setAttribute(property, seen[property]);
      }
      if (element.style[property].includes("var(")) element.style[property] = seen[property];
    }
  });
  const { width, height } = drawn.getBoundingClientRect();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const picture = new Image();
  picture.onload = () => {
    const heading = 28;
    const canvas = document.createElement("canvas");
    canvas.width = 2 * width;
    canvas.height = 2 * (height + heading);
    const context = canvas.getContext("2d");
    context.scale(2, 2);
    const page = getComputedStyle(document.body);
    context.fillStyle = page.getPropertyValue("--paper");
    context.fillRect(0, 0, width, height + heading);
    context.fillStyle = page.getPropertyValue("--ink");
    context.font = "14px Roboto, sans-serif";
    context.fillText(title, 8, 19);
    context.drawImage(picture, 0, heading);
    const link = document.createElement("a");
    link.download = `${title}.png`;
    link.href = canvas.toDataURL("image/png");
    link.click();
  };
  const text = new XMLSerializer().serializeToString(copy);
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

/* Copies the text of the element before the button. */
function copyCode(button) {
  const code = button.parentElement.querySelector("pre");
  const say = (word) => {
    button.textContent = word;
    setTimeout(() => (button.textContent = "Copy"), 2000);
  };
  if (navigator.clipboard) {
    navigator.clipboard.writeText(code.textContent).then(() => say("Copied"), () => say("Copy it by hand"));
  } else {
    // Only pages over TLS, or on this machine, may write to the clipboard
    getSelection().selectAllChildren(code);
    say(document.execCommand("copy") ? "Copied" : "Selected");
  }
}
