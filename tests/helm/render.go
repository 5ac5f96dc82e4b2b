// Renders a Helm chart with what Helm itself is made of: text/template, sprig, and JSON schemas. Debian has these libraries,
// but not Helm. Of Helm's own functions only those that the chart uses are here; another one is an error.
//
//	go run render.go CHART NAMESPACE [VALUES]
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"github.com/xeipuuv/gojsonschema"
	"gopkg.in/yaml.v3"
)

type files string

// Get is .Files.Get: a file of the chart, empty where there is none.
func (chart files) Get(name string) string {
	text, _ := os.ReadFile(filepath.Join(string(chart), name))
	return string(text)
}

func read(path string) map[string]interface{} {
	text, err := os.ReadFile(path)
	check(err)
	values := map[string]interface{}{}
	check(yaml.Unmarshal(text, &values))
	return values
}

// merge lays `over` over `values`, map by map, as Helm does with values; null takes a key away.
func merge(values, over map[string]interface{}) {
	for key, value := range over {
		below, isMap := values[key].(map[string]interface{})
		if next, both := value.(map[string]interface{}); isMap && both {
			merge(below, next)
		} else if value == nil {
			delete(values, key)
		} else {
			values[key] = value
		}
	}
}

func main() {
	log.SetFlags(0)
	chart, namespace := os.Args[1], os.Args[2]
	values := read(filepath.Join(chart, "values.yaml"))
	if len(os.Args) > 3 {
		merge(values, read(os.Args[3]))
	}
	schema := gojsonschema.NewReferenceLoader("file://" + filepath.Join(chart, "values.schema.json"))
	result, err := gojsonschema.Validate(schema, gojsonschema.NewGoLoader(values))
	check(err)
	for _, problem := range result.Errors() {
		log.Println("values:", problem)
	}
	if !result.Valid() {
		os.Exit(2)
	}

	root := template.New("chart").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := root.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		var out bytes.Buffer
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		err := encoder.Encode(value)
		return strings.TrimSuffix(out.String(), "\n"), err
	}
	root.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	check(err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		check(err)
		_, err = root.New(filepath.Base(path)).Parse(string(text))
		check(err)
	}

	about := read(filepath.Join(chart, "Chart.yaml"))
	data := map[string]interface{}{
		"Values":  values,
		"Chart":   map[string]interface{}{"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
		"Release": map[string]interface{}{"Name": "balancer", "Namespace": namespace, "Service": "Helm"},
		"Files":   files(chart),
	}
	for _, path := range paths {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "_") {
			continue
		}
		var out bytes.Buffer
		check(root.ExecuteTemplate(&out, name, data))
		if name == "NOTES.txt" {
			// Comments, so that they do not hurt.
			fmt.Println("---\n# " + strings.ReplaceAll(out.String(), "\n", "\n# "))
		} else {
			fmt.Println("---\n" + out.String())
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
